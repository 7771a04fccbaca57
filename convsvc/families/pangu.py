"""openPangu Embedded: Llama with biases on all four attention projections (`bias`; vllm, model_executor/models/openpangu.py)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import O_BIAS, QKV_BIASES
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="pangu-embedded",
    title="openPangu Embedded",
    model_types=("PanguEmbedded", "pangu_embedded"),
    architectures=("PanguEmbeddedForCausalLM",),
    flags=((("attention_bias", "bias", "add_qkv_bias"), QKV_BIASES + O_BIAS),),
)
