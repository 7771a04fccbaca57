"""Phi-3 and Phi-3.5: Llama with one stored tensor for queries, keys and values, and one for gate and up."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_PACKED
from convsvc.blocks.gqa import GQA_PACKED
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="phi3.5",
    title="Phi-3, Phi-3.5",
    model_types=("phi3",),
    architectures=("Phi3ForCausalLM",),
    attention=GQA_PACKED,
    mlp=GLU_PACKED,
    flags=(),
)
