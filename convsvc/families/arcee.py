"""Arcee (AFM): Llama without a gate, its activation squared."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import FC1_BIAS, FC2_BIAS, UNGATED, ungated_sizes
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.families import llama2
from convsvc.tensors.declare import row

UNGATED_BIASES = (
    row("mlp.up_proj.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("mlp.down_proj.bias", FC2_BIAS, "hidden"),
)
FAMILY = replace(
    llama2.FAMILY,
    name="arcee",
    title="Arcee (AFM)",
    model_types=("arcee",),
    architectures=("ArceeForCausalLM",),
    mlp=UNGATED,
    flags=(("attention_bias", QKV_BIASES + O_BIAS), ("mlp_bias", UNGATED_BIASES)),
    sizes=(gqa_sizes, ungated_sizes),
    megatron={"swiglu": False, "squared_relu": True},
)
