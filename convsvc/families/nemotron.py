"""Nemotron-4, Minitron: StarCoder 2 by other names, whose norms multiply by 1 + weight."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import ungated
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES
from convsvc.families import starcoder2

FAMILY = replace(
    starcoder2.FAMILY,
    name="nemotron",
    title="Nemotron-4, Minitron",
    model_types=("nemotron",),
    architectures=("NemotronForCausalLM",),
    mlp=ungated("mlp.up_proj", "mlp.down_proj", biased=False),
    flags=(("attention_bias", QKV_BIASES + O_BIAS), ("mlp_bias", ungated("mlp.up_proj", "mlp.down_proj", biased=True)[2:])),
    tied_by_default=False,
    zero_centred=True,
    names={"epsilon": "norm_eps"},
    partial_rotary=0.5,
    megatron={**starcoder2.FAMILY.megatron, "squared_relu": True},
)
