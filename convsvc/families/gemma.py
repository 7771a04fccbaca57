"""Gemma 1: Llama with norms that multiply by 1 + weight, and scaled embeddings."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import gemma2, llama2

FAMILY = replace(
    llama2.FAMILY,
    name="gemma",
    title="Gemma",
    model_types=("gemma",),
    architectures=("GemmaForCausalLM",),
    flags=(),
    tied_by_default=True,
    zero_centred=True,
    megatron={name: value for name, value in gemma2.FAMILY.megatron.items() if name != "post_norm"},
)
