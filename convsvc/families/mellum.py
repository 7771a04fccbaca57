"""Mellum 2: Qwen3-MoE whose layers may see only the nearest tokens, with positions of their own."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import qwen3_moe
from convsvc.models.beyond import local_positions, windows

FAMILY = replace(
    qwen3_moe.FAMILY,
    name="mellum",
    title="Mellum 2",
    model_types=("mellum",),
    architectures=("MellumForCausalLM",),
    advice=(windows, local_positions),
)
