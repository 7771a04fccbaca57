"""Gemma 3 (text): Gemma 2 with norms on heads, and positions of their own in layers with a window."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, QK_NORM
from convsvc.families import gemma2
from convsvc.models.beyond import local_positions, windows

FAMILY = replace(
    gemma2.FAMILY,
    name="gemma3",
    title="Gemma 3 (text)",
    model_types=("gemma3_text",),
    architectures=("Gemma3ForCausalLM",),
    attention=GQA + QK_NORM,
    megatron={**gemma2.FAMILY.megatron, "qk_layernorm": True},
    advice=(windows, local_positions),
)
