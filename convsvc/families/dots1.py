"""dots.llm1: GLM-4.5 without an MTP layer, with norms on heads."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, O_BIAS, QK_NORM, QKV_BIASES
from convsvc.families import glm45
from convsvc.models.beyond import windows

FAMILY = replace(
    glm45.FAMILY,
    name="dots1",
    title="dots.llm1",
    model_types=("dots1",),
    architectures=("Dots1ForCausalLM",),
    attention=GQA + QK_NORM,
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    mtp=None,
    distinguish=None,
    partial_rotary=1.0,
    megatron={"qk_layernorm": True, "moe_router_enable_expert_bias": True},
    advice=(windows,),
)
