"""SmolLM3: Llama, every fourth layer of which has no rotary positions."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import llama2
from convsvc.models.beyond import layers_without_positions, windows

FAMILY = replace(
    llama2.FAMILY,
    name="smollm3",
    title="SmolLM3",
    model_types=("smollm3",),
    architectures=("SmolLM3ForCausalLM",),
    tied_by_default=True,
    advice=(layers_without_positions, windows),
)
