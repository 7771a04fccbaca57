"""Qwen3.5, 3.6 and 3.8 without experts: dense blocks in the place of Qwen3.5-MoE's."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.linear_attention import (
    linear_attention_sizes,
)
from convsvc.families import qwen3_next, qwen35_moe

FAMILY = replace(
    qwen35_moe.FAMILY,
    name="qwen3.5",
    title="Qwen3.5",
    model_types=("qwen3_5_text",),
    architectures=("Qwen3_5ForCausalLM",),
    mlp=qwen3_next.FAMILY.mlp,
    experts=(),
    sizes=(gqa_sizes, glu_sizes, linear_attention_sizes),
    names={},
    megatron={"qk_layernorm": True},
)
