"""Seed-OSS: Llama with a switch for each projection's biases."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_BIASES
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="seed-oss",
    title="Seed-OSS",
    model_types=("seed_oss",),
    architectures=("SeedOssForCausalLM",),
    flags=((("attention_bias", "add_qkv_bias"), QKV_BIASES), ("attention_out_bias", O_BIAS), ("mlp_bias", GLU_BIASES)),
    megatron={"add_qkv_bias": True},
)
