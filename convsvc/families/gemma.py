"""Gemma 1 and Gemma 3 (text). 1 is Llama, with norms that multiply by 1 + weight and scaled embeddings; 3 is 2 with norms on heads."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, QK_NORM
from convsvc.families import gemma2, llama2
from convsvc.models.beyond import local_positions, windows

GEMMA = replace(
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
GEMMA3 = replace(
    gemma2.FAMILY,
    name="gemma3",
    title="Gemma 3 (text)",
    model_types=("gemma3_text",),
    architectures=("Gemma3ForCausalLM",),
    attention=GQA + QK_NORM,
    megatron={**gemma2.FAMILY.megatron, "qk_layernorm": True},
    advice=(windows, local_positions),
)
FAMILIES = (GEMMA, GEMMA3)
