"""Jais 2: Nemotron-4 whose norms are not added to 1, with biases on every projection."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import nemotron

FAMILY = replace(
    nemotron.FAMILY,
    name="jais2",
    title="Jais 2",
    model_types=("jais2",),
    architectures=("Jais2ForCausalLM",),
    zero_centred=False,
    names={"epsilon": "layer_norm_eps"},
    partial_rotary=1.0,
    megatron={**nemotron.FAMILY.megatron, "squared_relu": True},
)
