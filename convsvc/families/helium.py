"""Helium: Llama whose rotary positions pair neighbours."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_BIASES
from convsvc.blocks.gqa import QKV_BIASES
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="helium",
    title="Helium",
    model_types=("helium",),
    architectures=("HeliumForCausalLM",),
    flags=(("attention_bias", QKV_BIASES), ("mlp_bias", GLU_BIASES)),
    megatron={"rotary_interleaved": True},
)
