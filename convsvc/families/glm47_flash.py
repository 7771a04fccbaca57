"""GLM-4.7-Flash: DeepSeek-V3 under another name."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import deepseek3
from convsvc.models.family import Family

FAMILY: Family = replace(
    deepseek3.FAMILY,
    name="glm4-moe-lite",
    title="GLM-4.7-Flash",
    model_types=("glm4_moe_lite",),
    architectures=("Glm4MoeLiteForCausalLM",),
    silent="",
)
