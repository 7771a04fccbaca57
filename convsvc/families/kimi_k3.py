"""Kimi-K3 (text): Kimi-Linear with gates on both kinds of attention, residuals that are weighed over earlier blocks, and latent experts.

Names and shapes: headers of the published checkpoint; modeling_kimi_linear.py beside it. A_log has head_dim numbers, zeros behind those
of the heads. Experts work in a narrower space (routed_expert_hidden_size), between one projection to it and one back.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.mla import MLA, mla_sizes
from convsvc.blocks.moe import ROUTER, moe_sizes, shared_sizes
from convsvc.blocks.own import own
from convsvc.families import kimi_linear
from convsvc.families.kimi_linear import BIAS, DELTA, SHARED, delta_sizes, is_linear
from convsvc.families.nemotron_h import LATENT_FC1, LATENT_FC2
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

RESIDUALS = tuple(
    own(f"{part}_res_{name}.weight", axes)
    for part in ("self_attention", "mlp")
    for name, axes in (("norm", "hidden"), ("proj", "single hidden"))
)
KDA = (
    *(replace(each, keep="F32") if "conv1d" in each.stored or "o_norm" in each.stored else each for each in DELTA[:6]),
    own("self_attn.A_log", "key_dim", keep="F32"),
    *(each for each in DELTA[7:11]),
    own("self_attn.g_proj.weight", "key_inner hidden"),
    *(replace(each, keep="F32") if "o_norm" in each.stored else each for each in DELTA[13:]),
)
GATED_MLA = (*MLA, own("self_attn.g_proj.weight", "value_inner hidden"))
EXPERTS = (
    row("block_sparse_moe.gate.weight", ROUTER, "expert hidden"),
    BIAS,
    own("block_sparse_moe.routed_expert_down_proj.weight", "moe_latent hidden"),
    own("block_sparse_moe.routed_expert_norm.weight", "moe_latent"),
    own("block_sparse_moe.routed_expert_up_proj.weight", "hidden moe_latent"),
    row("block_sparse_moe.experts.{expert}.w1.weight", LATENT_FC1.at(glu="0"), "expert_ffn moe_latent"),
    row("block_sparse_moe.experts.{expert}.w3.weight", LATENT_FC1.at(glu="1"), "expert_ffn moe_latent"),
    row("block_sparse_moe.experts.{expert}.w2.weight", LATENT_FC2, "moe_latent expert_ffn"),
    *SHARED,
)


def k3_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Either kind of attention, each with its gate, and the weighed residuals."""
    made = standard_layer(replace(family, attention=KDA if is_linear(facts, layer) else GATED_MLA), facts, layer)
    return replace(made, rows=RESIDUALS + made.rows)


def k3_sizes(facts: Facts) -> dict[str, int]:
    """moe_latent, the width of routed experts' space; value_inner, all heads' values together."""
    return {"moe_latent": facts.number("routed_expert_hidden_size"), "value_inner": facts.number("heads") * facts.number("v_head_dim")}


FAMILY = replace(
    kimi_linear.FAMILY,
    name="kimi-k3",
    title="Kimi-K3 (text)",
    experts=EXPERTS,
    packed=(),
    sizes=(mla_sizes, glu_sizes, moe_sizes, shared_sizes, delta_sizes, k3_sizes),
    layer=k3_layer,
    final_norm=(
        *kimi_linear.FAMILY.final_norm,
        own("model.output_attn_res_norm.weight", "hidden"),
        own("model.output_attn_res_proj.weight", "single hidden"),
    ),
    distinguish=lambda facts: bool(facts.get("attn_res_block_size")),
    fields=(*kimi_linear.FAMILY.fields, "attn_res_block_size", "routed_expert_hidden_size"),
)
