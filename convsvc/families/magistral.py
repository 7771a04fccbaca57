"""Mistral and Magistral: Llama, whose heads need not be hidden_size / num_attention_heads wide."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="magistral",
    title="Mistral, Magistral",
    model_types=("mistral",),
    architectures=("MistralForCausalLM",),
    flags=(),
)
