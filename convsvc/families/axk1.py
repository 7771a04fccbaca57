"""A.X K1: DeepSeek-V3 with a norm after the feed-forward block of layers with experts."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.norms import POST_MLP_NORM
from convsvc.families import deepseek3
from convsvc.models.family import Family
from convsvc.tensors.declare import row

FAMILY: Family = replace(
    deepseek3.FAMILY,
    name="axk1",
    title="A.X K1",
    model_types=("axk1", "AXK1"),
    architectures=("AXK1ForCausalLM",),
    # AXK1DecoderLayer: there is none in dense layers, and none after attention.
    experts=(*deepseek3.FAMILY.experts, row("post_mlp_layernorm.weight", POST_MLP_NORM, "hidden")),
    mtp=None,
    silent="",
)
