"""OLMo 1: Llama whose norms have no weights."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, O_BIAS, QKV_BIASES
from convsvc.blocks.own import apart
from convsvc.families import llama2

BIASES = (("attention_bias", QKV_BIASES + O_BIAS),)


# Its norms have no weights, and Megatron's layers have one before each block: what attention has lies in Hugging Face's formats alone.
FAMILY = replace(
    llama2.FAMILY,
    name="olmo",
    title="OLMo",
    model_types=("olmo",),
    architectures=("OlmoForCausalLM",),
    norms=(),
    attention=apart(GQA, "unnormed."),
    flags=(),
    final_norm=(),
)
