"""MiniCPM3: DeepSeek-V2's attention in dense layers, with MiniCPM's factors."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_BIASES, glu_sizes
from convsvc.blocks.mla import mla_sizes
from convsvc.families import deepseek2
from convsvc.models.beyond import multipliers

FAMILY = replace(
    deepseek2.FAMILY,
    name="minicpm3",
    title="MiniCPM3",
    model_types=("minicpm3",),
    architectures=("MiniCPM3ForCausalLM",),
    experts=(),
    names={},
    flags=(("mlp_bias", GLU_BIASES),),
    sizes=(mla_sizes, glu_sizes),
    tied_by_default=True,
    distinguish=None,
    advice=(multipliers,),
)
