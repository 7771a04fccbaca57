"""Code World Model: Llama with windows."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_BIASES
from convsvc.families import llama2
from convsvc.models.beyond import windows

FAMILY = replace(
    llama2.FAMILY,
    name="cwm",
    title="Code World Model",
    model_types=("cwm",),
    architectures=("CwmForCausalLM",),
    flags=(("mlp_bias", GLU_BIASES),),
    advice=(windows,),
)
