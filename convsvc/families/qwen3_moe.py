"""Qwen3-MoE: Qwen3 with experts; mlp_only_layers and decoder_sparse_step say which layers stay dense."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import MOE, moe_sizes
from convsvc.families import qwen3
from convsvc.models.family import Family

FAMILY: Family = replace(
    qwen3.FAMILY,
    name="qwen3-moe",
    title="Qwen3-MoE",
    model_types=("qwen3_moe",),
    architectures=("Qwen3MoeForCausalLM",),
    experts=MOE,
    sizes=(gqa_sizes, glu_sizes, moe_sizes),
    names={"dense": "mlp_only_layers"},
)
