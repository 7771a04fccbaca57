"""Solar Open: dots.llm1 without norms on heads, with experts in every layer."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import moe_sizes, shared_sizes
from convsvc.families import dots1

FAMILY = replace(
    dots1.FAMILY,
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
