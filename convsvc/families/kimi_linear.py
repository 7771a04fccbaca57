"""Kimi-Linear: Kimi delta attention in most layers, latent attention without positions in the others; experts under Mixtral's names.

transformers 5.23, KimiLinearDeltaAttention; the layers' numbers in linear_attn_config count from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convsvc.blocks.glu import FC1, FC2, glu_sizes
from convsvc.blocks.mla import mla_sizes
from convsvc.blocks.moe import BLOCK_SPARSE_MOE, PACKED_SPARSE_MOE, ROUTER_BIAS, SHARED_EXPERTS, moe_sizes, shared_sizes, sparse_layers
from convsvc.blocks.own import own
from convsvc.families import deepseek2
from convsvc.families.deepseek2 import latent_layer
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

DELTA = (
    own("self_attn.q_proj.weight", "key_inner hidden"),
    own("self_attn.k_proj.weight", "key_inner hidden"),
    own("self_attn.v_proj.weight", "key_inner hidden"),
    own("self_attn.q_conv1d.weight", "key_inner single conv_kernel"),
    own("self_attn.k_conv1d.weight", "key_inner single conv_kernel"),
    own("self_attn.v_conv1d.weight", "key_inner single conv_kernel"),
    own("self_attn.A_log", "single one key_heads last", keep="F32"),
    own("self_attn.dt_bias", "key_inner", keep="F32"),
    own("self_attn.f_a_proj.weight", "key_dim hidden"),
    own("self_attn.f_b_proj.weight", "key_inner key_dim"),
    own("self_attn.b_proj.weight", "key_heads hidden"),
    own("self_attn.g_a_proj.weight", "key_dim hidden"),
    own("self_attn.g_b_proj.weight", "key_inner key_dim"),
    own("self_attn.o_norm.weight", "key_dim"),
    own("self_attn.o_proj.weight", "hidden key_inner"),
)
# transformers 5 saves the dense layers' under the experts' name, too.
DENSE = (
    row("mlp.gate_proj.weight", FC1.at(glu="0"), "ffn hidden", also=("block_sparse_moe.gate_proj.weight",)),
    row("mlp.up_proj.weight", FC1.at(glu="1"), "ffn hidden", also=("block_sparse_moe.up_proj.weight",)),
    row("mlp.down_proj.weight", FC2, "hidden ffn", also=("block_sparse_moe.down_proj.weight",)),
)
BIAS = row("block_sparse_moe.gate.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32", also=("mlp.gate.e_score_correction_bias",))
SHARED = tuple(replace(each, stored=each.stored.replace("mlp.", "block_sparse_moe."), also=(each.stored,)) for each in SHARED_EXPERTS)


def linear_config(facts: Facts) -> Mapping[str, Any]:
    """The part that speaks of the delta attention; transformers 5 has it at the top, under other names."""
    nested = facts.get("linear_attn_config")
    return nested if isinstance(nested, Mapping) else {}


def is_linear(facts: Facts, layer: int) -> bool:
    """Whether a layer has delta attention; where nothing says it, as transformers' class takes it."""
    kinds, full = facts.items("layer_types", str), linear_config(facts).get("full_attn_layers")
    if kinds is not None and layer < len(kinds):
        return bool(kinds[layer] == "linear_attention")
    if isinstance(full, list | tuple):
        return layer + 1 not in full
    return layer == 0 or layer % 4 != 0


def kimi_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Either kind of attention, and experts or a dense block."""
    if is_linear(facts, layer):
        is_sparse = sparse_layers(facts)(layer)
        return LayerRows(family.norms + DELTA + (family.experts if is_sparse else family.mlp), dense=not is_sparse)
    return latent_layer(family, facts, layer)


def delta_sizes(facts: Facts) -> dict[str, int]:
    """key_heads, key_dim and key_inner, which is both; conv_kernel; ones."""
    own_facts = Facts({**linear_config(facts), **{k: facts.get(k) for k in TOP if facts.get(k) is not None}}, facts.origin)
    heads, width = own_facts.first_number(("num_heads", "linear_num_heads")), own_facts.first_number(("head_dim", "linear_head_dim"))
    kernel = own_facts.first_number(("short_conv_kernel_size", "linear_conv_kernel_dim"), default=4)
    return {"key_heads": heads, "key_dim": width, "key_inner": heads * width, "conv_kernel": kernel, "single": 1, "one": 1, "last": 1}


TOP = ("linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")
FAMILY = replace(
    deepseek2.FAMILY,
    name="kimi-linear",
    title="Kimi-Linear",
    model_types=("kimi_linear",),
    architectures=("KimiLinearForCausalLM",),
    mlp=DENSE,
    experts=(*BLOCK_SPARSE_MOE, BIAS, *SHARED),
    packed=PACKED_SPARSE_MOE,
    sizes=(mla_sizes, glu_sizes, moe_sizes, shared_sizes, delta_sizes),
    layer=kimi_layer,
    distinguish=lambda facts: not facts.get("attn_res_block_size"),
    names={"experts": "num_experts", "shared": "num_shared_experts", "dense": "first_k_dense_replace", "chosen": "num_experts_per_token"},
    fields=("linear_attn_config", *TOP, "layer_types"),
)
