"""Code World Model, Helium, Arcee: Llama with windows, with rotary positions that pair neighbours, without a gate."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import FC1_BIAS, FC2_BIAS, GLU_BIASES, UNGATED, ungated_sizes
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.families import llama2
from convsvc.models.beyond import windows
from convsvc.tensors.declare import row

UNGATED_BIASES = (
    row("mlp.up_proj.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("mlp.down_proj.bias", FC2_BIAS, "hidden"),
)

CWM = replace(
    llama2.FAMILY,
    name="cwm",
    title="Code World Model",
    model_types=("cwm",),
    architectures=("CwmForCausalLM",),
    flags=(("mlp_bias", GLU_BIASES),),
    advice=(windows,),
)
HELIUM = replace(
    llama2.FAMILY,
    name="helium",
    title="Helium",
    model_types=("helium",),
    architectures=("HeliumForCausalLM",),
    flags=(("attention_bias", QKV_BIASES), ("mlp_bias", GLU_BIASES)),
    megatron={"rotary_interleaved": True},
)
ARCEE = replace(
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
FAMILIES = (CWM, HELIUM, ARCEE)
