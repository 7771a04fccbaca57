"""dots.llm1 and Solar Open: GLM-4.5 without an MTP layer; dots.llm1 has norms on heads, Solar Open has experts in every layer."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, O_BIAS, QK_NORM, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import moe_sizes, shared_sizes
from convsvc.families import glm45
from convsvc.models.beyond import windows

DOTS1 = replace(
    glm45.GLM45,
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
SOLAR = replace(
    DOTS1,
    name="solar-open",
    title="Solar Open",
    model_types=("solar_open",),
    architectures=("SolarOpenForCausalLM",),
    attention=GQA,
    mlp=(),
    flags=(("attention_bias", QKV_BIASES),),
    sizes=(gqa_sizes, moe_sizes, shared_sizes),
    names={"experts": "n_routed_experts", "shared": "n_shared_experts"},
    megatron={"moe_router_enable_expert_bias": True},
    advice=(),
)
FAMILIES = (DOTS1, SOLAR)
