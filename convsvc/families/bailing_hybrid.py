"""Ling 2.5 and 3 (Bailing hybrid): Kimi's delta attention in most layers, latent attention with a gate a head at each group's end.

transformers 5.23, BailingHybridForCausalLM; names as its loader finds them published (conversion_mapping.py, bailing_hybrid).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING
from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.mla import MLA_WHOLE_QUERIES, mla_sizes
from convsvc.blocks.moe import moe_sizes, shared_sizes
from convsvc.blocks.own import own
from convsvc.families import bailing_mini
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

DELTA = (
    *(own(f"attention.{name}_proj.weight", "key_inner hidden") for name in "qkvfg"),
    *(own(f"attention.{name}_conv1d.weight", "key_inner single conv_kernel") for name in "qkv"),
    own("attention.A_log", "key_heads", keep="F32"),
    own("attention.dt_bias", "key_inner", keep="F32"),
    own("attention.b_proj.weight", "key_heads hidden"),
    own("attention.o_norm.weight", "key_dim"),
    own("attention.dense.weight", "hidden key_inner"),
)
LATENT = (
    *(
        replace(each, stored=each.stored.replace("self_attn.o_proj", "attention.dense").replace("self_attn", "attention"))
        for each in MLA_WHOLE_QUERIES
    ),
    own("attention.g_proj.weight", "head hidden"),
)


def is_latent(facts: Facts, layer: int) -> bool:
    """Whether a layer has latent attention: as layer_types says, else the last of each group, and the last of all."""
    kinds, group = facts.items("layer_types", str), facts.number("layer_group_size", default=6)
    if kinds is not None:
        return layer >= len(kinds) or kinds[layer] != "linear_attention"
    return layer >= facts.num_layers - 1 or (layer + 1) % max(group, 1) == 0


def hybrid_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Either kind of attention, and experts or a dense block."""
    return standard_layer(replace(family, attention=LATENT if is_latent(facts, layer) else DELTA), facts, layer)


def hybrid_sizes(facts: Facts) -> dict[str, int]:
    """key_heads, key_dim and key_inner, which is both; conv_kernel."""
    heads = facts.first_number(("linear_num_heads",), default=facts.number("heads"))
    width = facts.first_number(("linear_head_dim", "head_dim"), default=128)
    kernel = facts.first_number(("linear_conv_kernel_dim", "short_conv_kernel_size"), default=4)
    return {"key_heads": heads, "key_dim": width, "key_inner": heads * width, "conv_kernel": kernel, "single": 1}


FAMILY = replace(
    bailing_mini.FAMILY,
    name="bailing_hybrid",
    title="Ling 2.5, Ling 3 (Bailing hybrid)",
    model_types=("bailing_hybrid",),
    architectures=("BailingHybridForCausalLM",),
    embedding=(row("model.word_embeddings.weight", EMBEDDING, "vocab hidden", also=("model.embed_tokens.weight",)),),
    attention=LATENT,
    flags=(),
    stacked=True,
    sizes=(mla_sizes, glu_sizes, moe_sizes, shared_sizes, hybrid_sizes),
    layer=hybrid_layer,
    fields=("layer_types", "layer_group_size", "linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim", "mlp_layer_types"),
)
