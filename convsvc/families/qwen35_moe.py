"""Qwen3.5, 3.6 and 3.8 with experts: Qwen3-Next's layers; a delta net's projections are four stored tensors.

Queries, keys and values of all key heads lie one behind the other, gates and the two scalars apart (transformers 5.23,
Qwen3_5GatedDeltaNet.forward); a key head's values are neighbours on both sides.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.linear_attention import (
    DELTA_BA,
    DELTA_QKVZ,
    GATED_ATTENTION,
    LINEAR_ATTENTION,
    full_attention_layers,
)
from convsvc.families import qwen3_next
from convsvc.families.qwen3_next import MTP_ROWS
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.mtp_layers import Mtp
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import part, row

SPLIT_PROJECTIONS = (
    row(
        "linear_attn.in_proj_qkv.weight",
        (
            part(DELTA_QKVZ.at(qkvz="0:key_dim"), "(key_head qkvz) hidden"),
            part(DELTA_QKVZ.at(qkvz="key_dim:2 * key_dim"), "(key_head qkvz) hidden"),
            part(DELTA_QKVZ.at(qkvz="2 * key_dim:2 * key_dim + value * value_dim"), "(key_head qkvz) hidden"),
        ),
    ),
    row("linear_attn.in_proj_z.weight", DELTA_QKVZ.at(qkvz="2 * key_dim + value * value_dim:qkvz"), "(key_head qkvz) hidden"),
    row("linear_attn.in_proj_b.weight", DELTA_BA.at(ba="0:value"), "(key_head ba) hidden"),
    row("linear_attn.in_proj_a.weight", DELTA_BA.at(ba="value:ba"), "(key_head ba) hidden"),
)
SPLIT_LINEAR_ATTENTION = (*SPLIT_PROJECTIONS, *(each for each in LINEAR_ATTENTION if "in_proj" not in each.stored))


def split_hybrid_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A standard layer with either kind of attention."""
    attention = GATED_ATTENTION if full_attention_layers(facts)(layer) else SPLIT_LINEAR_ATTENTION
    return standard_layer(replace(family, attention=attention), facts, layer)


FAMILY = replace(
    qwen3_next.FAMILY,
    name="qwen3.5-moe",
    title="Qwen3.5-MoE, Qwen3.6-MoE, Qwen3.8",
    model_types=("qwen3_5_moe_text",),
    architectures=("Qwen3_5MoeForCausalLM",),
    mlp=(),
    sizes=tuple(sizes for sizes in qwen3_next.FAMILY.sizes if sizes is not glu_sizes),  # no layer is dense: no width of one is stated
    layer=split_hybrid_layer,
    mtp=Mtp(MTP_ROWS, prefix="mtp.", block_prefix="mtp.layers.{mtp}.", counts=("mtp_num_hidden_layers",)),
)
