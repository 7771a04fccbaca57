"""Qwen3.5 and its like as they are published: with Qwen3-VL's tower, none of whose layers' patches go further than to its merger."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import qwen3_vl, qwen35, qwen35_moe
from convsvc.models.around import around

VISION = replace(qwen3_vl.VISION, beside=None)
DENSE = around(
    qwen35.FAMILY,
    towers=(VISION,),
    body="model.language_model.",
    name="qwen3.5-vl",
    title="Qwen3.5 with its tower",
    model_types=("qwen3_5",),
    architectures=("Qwen3_5ForConditionalGeneration",),
)
MOE = around(
    qwen35_moe.FAMILY,
    towers=(VISION,),
    body="model.language_model.",
    name="qwen3.5-vl-moe",
    title="Qwen3.5-MoE, 3.6-MoE, 3.8 with their tower",
    model_types=("qwen3_5_moe",),
    architectures=("Qwen3_5MoeForConditionalGeneration",),
)
FAMILIES = (DENSE, MOE)
