"""InternLM 1: Llama with one switch for the biases of attention (modeling_internlm.py of the published checkpoints)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import O_BIAS, QKV_BIASES
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="internlm",
    title="InternLM",
    model_types=("internlm",),
    architectures=("InternLMForCausalLM",),
    flags=(("bias", QKV_BIASES + O_BIAS),),
)
