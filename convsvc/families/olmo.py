"""OLMo 1: Llama whose norms have no weights."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, O_BIAS, QKV_BIASES
from convsvc.families import llama2
from convsvc.tensors.declare import Part, Row

BIASES = (("attention_bias", QKV_BIASES + O_BIAS),)


def _unnormed(each: Row) -> Part:
    """The row's part of a tensor that is called apart from those which a norm comes before."""
    selection = each.parts[0].selection
    return replace(each.parts[0], selection=replace(selection, logical=selection.logical.renamed("unnormed.")))


# Its norms have no weights, and Megatron's layers have one before each block: what attention has lies in Hugging Face's formats alone.
FAMILY = replace(
    llama2.FAMILY,
    name="olmo",
    title="OLMo",
    model_types=("olmo",),
    architectures=("OlmoForCausalLM",),
    norms=(),
    attention=tuple(replace(each, parts=(_unnormed(each),)) for each in GQA),
    flags=(),
    final_norm=(),
)
