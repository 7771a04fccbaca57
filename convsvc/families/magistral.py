"""Mistral, Magistral and Ministral: Llama, whose heads need not be hidden_size / num_attention_heads wide."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import llama2
from convsvc.models.beyond import growing_queries, windows

FAMILY = replace(
    llama2.FAMILY,
    name="magistral",
    title="Mistral, Magistral, Ministral",
    model_types=("mistral", "ministral", "ministral3"),
    architectures=("MistralForCausalLM", "MinistralForCausalLM", "Ministral3ForCausalLM"),
    flags=(),
    advice=(windows, growing_queries),
)
