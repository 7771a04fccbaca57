"""Qwen3: Llama with a norm on every query and key head."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, O_BIAS, QK_NORM, QKV_BIASES
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="qwen3",
    title="Qwen3",
    model_types=("qwen3",),
    architectures=("Qwen3ForCausalLM",),
    attention=GQA + QK_NORM,
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    megatron={"qk_layernorm": True},
)
