"""DiffLlama: Llama whose attention is the difference of two, weighed by four vectors of a layer (transformers 5.23, DiffLlamaAttention)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_BIASES
from convsvc.blocks.gqa import GQA, O_BIAS, QKV_BIASES
from convsvc.blocks.own import own
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="diffllama",
    title="DiffLlama",
    model_types=("diffllama",),
    architectures=("DiffLlamaForCausalLM",),
    attention=(*GQA, *(own(f"self_attn.lambda_{name}", "head_dim") for name in ("q1", "k1", "q2", "k2"))),
    flags=(("attention_bias", QKV_BIASES + O_BIAS), ("mlp_bias", GLU_BIASES)),
)
