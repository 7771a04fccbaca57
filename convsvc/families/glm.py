"""GLM-4 (9B) as transformers has it: GLM-4-0414 without the norms after blocks."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.norms import NORMS
from convsvc.families import glm4

FAMILY = replace(
    glm4.FAMILY,
    name="glm",
    title="GLM-4-9B",
    model_types=("glm",),
    architectures=("GlmForCausalLM",),
    norms=NORMS,
    megatron={"rotary_interleaved": True},
)
