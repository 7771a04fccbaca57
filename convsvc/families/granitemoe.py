"""Granite 3 MoE: Granite whose blocks are experts, a layer's in two tensors."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import sparse_sizes
from convsvc.families import granite
from convsvc.families.granite import STACKED_EXPERTS

FAMILY = replace(
    granite.FAMILY,
    name="granitemoe",
    title="Granite 3 MoE",
    model_types=("granitemoe",),
    architectures=("GraniteMoeForCausalLM",),
    mlp=(),
    experts=STACKED_EXPERTS,
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size"},
)
