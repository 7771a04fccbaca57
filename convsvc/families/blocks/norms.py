"""The two norms of a decoder layer."""

from __future__ import annotations

from convsvc.tensors.declare import logical, row

INPUT_NORM = logical("input_layernorm.weight", "hidden")
PRE_MLP_NORM = logical("pre_mlp_layernorm.weight", "hidden")

NORMS = (
    row("input_layernorm.weight", INPUT_NORM, "hidden"),
    row("post_attention_layernorm.weight", PRE_MLP_NORM, "hidden"),
)
