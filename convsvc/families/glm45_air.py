"""GLM-4.5-Air: GLM-4.5 without the norm on every query and key head."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import glm45
from convsvc.families.glm45 import has_head_norms

FAMILY = replace(
    glm45.FAMILY,
    name="glm45-air",
    title="GLM-4.5-Air",
    distinguish=lambda facts: not has_head_norms(facts),
    megatron={"add_qkv_bias": True, "moe_router_enable_expert_bias": True},
)
