"""Apertus: norms on heads and no gate; an activation (xIELU) has weights of its own, for which no framework has a place."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import UNGATED, ungated_sizes
from convsvc.blocks.gqa import GQA, O_BIAS, QK_NORM, QKV_BIASES, gqa_sizes
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.blocks.own import own
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row

XIELU = tuple(own(f"mlp.act_fn.{name}", "single") for name in ("alpha_p", "alpha_n"))
# Constants that transformers keeps as buffers, and saves.
CONSTANTS = (own("mlp.act_fn.beta", ""), own("mlp.act_fn.eps", ""))


def xielu_sizes(facts: Facts) -> dict[str, int]:
    """single: a number a layer."""
    return {**ungated_sizes(facts), "single": 1}


FAMILY = replace(
    llama2.FAMILY,
    name="apertus",
    title="Apertus",
    model_types=("apertus",),
    architectures=("ApertusForCausalLM",),
    norms=(row("attention_layernorm.weight", INPUT_NORM, "hidden"), row("feedforward_layernorm.weight", PRE_MLP_NORM, "hidden")),
    attention=GQA + QK_NORM,
    mlp=UNGATED + XIELU + CONSTANTS,
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    sizes=(gqa_sizes, xielu_sizes),
)
