"""MiniCPM: Llama with factors on embeddings, residuals and logits; MiniCPM3 and Youtu: DeepSeek-V2's attention in dense layers."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_BIASES, glu_sizes
from convsvc.blocks.mla import mla_sizes
from convsvc.families import deepseek2, llama2
from convsvc.models.beyond import multipliers

MINICPM = replace(
    llama2.FAMILY,
    name="minicpm",
    title="MiniCPM",
    model_types=("minicpm",),
    architectures=("MiniCPMForCausalLM",),
    tied_by_default=True,
    advice=(multipliers,),
)
MINICPM3 = replace(
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
YOUTU = replace(
    MINICPM3,
    name="youtu",
    title="Youtu-LLM",
    model_types=("youtu",),
    architectures=("YoutuForCausalLM",),
    flags=(),
    advice=(),
)
FAMILIES = (MINICPM, MINICPM3, YOUTU)
