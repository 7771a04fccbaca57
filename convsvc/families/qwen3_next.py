"""Qwen3-Next: three layers of four have a gated delta net, the fourth gated attention; experts with a gated shared one; an MTP layer."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.linear_attention import GATED_ATTENTION, LINEAR_ATTENTION, full_attention_layers, linear_attention_sizes
from convsvc.blocks.moe import moe_sizes, shared_sizes
from convsvc.blocks.mtp import E_NORM, EH_PROJ, H_NORM, MTP_NORM
from convsvc.families import qwen2_moe
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.mtp_layers import Mtp
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

MTP_ROWS = (
    row("fc.weight", EH_PROJ, "hidden (part input)"),
    row("pre_fc_norm_embedding.weight", E_NORM, "hidden"),
    row("pre_fc_norm_hidden.weight", H_NORM, "hidden"),
    row("norm.weight", MTP_NORM, "hidden"),
)


def hybrid_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A standard layer with either kind of attention."""
    attention = GATED_ATTENTION if full_attention_layers(facts)(layer) else LINEAR_ATTENTION
    return standard_layer(replace(family, attention=attention), facts, layer)


FAMILY: Family = replace(
    qwen2_moe.FAMILY,
    name="qwen3-next",
    title="Qwen3-Next",
    model_types=("qwen3_next",),
    architectures=("Qwen3NextForCausalLM",),
    flags=(),
    sizes=(gqa_sizes, glu_sizes, moe_sizes, shared_sizes, linear_attention_sizes),
    layer=hybrid_layer,
    zero_centred=True,
    partial_rotary=0.25,
    mtp=Mtp(MTP_ROWS, prefix="mtp.", block_prefix="mtp.layers.{mtp}."),
    megatron={"qk_layernorm": True, "shared_expert_gate": True},
)
