"""Mistral 4: DeepSeek-V2 whose experts are stored together."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.moe import EXPERTS, PACKED_EXPERTS, ROUTER, SHARED_EXPERTS
from convsvc.families import deepseek2
from convsvc.tensors.declare import row

FAMILY = replace(
    deepseek2.FAMILY,
    name="mistral4",
    title="Mistral 4",
    model_types=("mistral4",),
    architectures=("Mistral4ForCausalLM",),
    experts=(row("mlp.gate.weight", ROUTER, "expert hidden"), *PACKED_EXPERTS, *SHARED_EXPERTS),
    packed=EXPERTS,
    distinguish=None,
)
