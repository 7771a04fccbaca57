"""Qwen2 and Qwen2.5: Llama with biases on the query, key and value projections."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, QKV_BIASES
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="qwen25",
    title="Qwen2, Qwen2.5",
    model_types=("qwen2",),
    architectures=("Qwen2ForCausalLM",),
    attention=GQA + QKV_BIASES,
    flags=(),
    megatron={"add_qkv_bias": True},
)
