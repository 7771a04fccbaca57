"""Orion: Llama with LayerNorms."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import llama2, stablelm

FAMILY = replace(
    llama2.FAMILY,
    name="orion",
    title="Orion",
    model_types=("orion",),
    architectures=("OrionForCausalLM",),
    norms=stablelm.FAMILY.norms,
    final_norm=stablelm.FAMILY.final_norm,
    megatron=stablelm.FAMILY.megatron,
)
