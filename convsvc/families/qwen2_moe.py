"""Qwen2-MoE: Qwen2 with experts, and a shared expert whose output a gate weighs."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import MOE, SHARED_EXPERT, moe_sizes, shared_sizes
from convsvc.families import qwen25

FAMILY = replace(
    qwen25.FAMILY,
    name="qwen2-moe",
    title="Qwen1.5-MoE, Qwen2-MoE",
    model_types=("qwen2_moe",),
    architectures=("Qwen2MoeForCausalLM",),
    experts=MOE + SHARED_EXPERT,
    sizes=(gqa_sizes, glu_sizes, moe_sizes, shared_sizes),
    names={"shared": "shared_expert_intermediate_size", "dense": "mlp_only_layers"},
    megatron={"add_qkv_bias": True, "shared_expert_gate": True},
)
