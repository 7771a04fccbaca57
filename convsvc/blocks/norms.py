"""The norms of a decoder layer: one before attention, one before the feed-forward block, and after each where a family has that."""

from __future__ import annotations

from convsvc.tensors.declare import Logical, Row, logical, row

INPUT_NORM = logical("input_layernorm.weight", "hidden")
PRE_MLP_NORM = logical("pre_mlp_layernorm.weight", "hidden")
INPUT_NORM_BIAS = logical("input_layernorm.bias", "hidden")
PRE_MLP_NORM_BIAS = logical("pre_mlp_layernorm.bias", "hidden")
POST_ATTENTION_NORM = logical("post_attn_norm.weight", "hidden")
POST_MLP_NORM = logical("post_mlp_layernorm.weight", "hidden")

NORMS = (
    row("input_layernorm.weight", INPUT_NORM, "hidden"),
    row("post_attention_layernorm.weight", PRE_MLP_NORM, "hidden"),
)
# LayerNorm's; a checkpoint that never had them, or lost them, goes without.
NORM_BIASES = (
    row("input_layernorm.bias", INPUT_NORM_BIAS, "hidden", optional=True),
    row("post_attention_layernorm.bias", PRE_MLP_NORM_BIAS, "hidden", optional=True),
)
# After attention and after the feed-forward block, and nowhere else (OLMo 2, EXAONE 4): Megatron's layers begin with a norm, and have no
# place for one that does not.
ONLY_POST_ATTENTION_NORM = logical("only_post_attention_layernorm.weight", "hidden")
ONLY_POST_MLP_NORM = logical("only_post_mlp_layernorm.weight", "hidden")
NORMS_ONLY_AFTER = (
    row("post_attention_layernorm.weight", ONLY_POST_ATTENTION_NORM, "hidden"),
    row("post_feedforward_layernorm.weight", ONLY_POST_MLP_NORM, "hidden"),
)
# Before attention and feed-forward block, which are computed side by side: one for both, or one each. Megatron computes them in turn.
PARALLEL_NORM = logical("parallel_layernorm.weight", "hidden")
PARALLEL_NORM_BIAS = logical("parallel_layernorm.bias", "hidden")
PARALLEL_MLP_NORM = logical("parallel_mlp_layernorm.weight", "hidden")
PARALLEL_MLP_NORM_BIAS = logical("parallel_mlp_layernorm.bias", "hidden")


def layer_norm(stored: str, weight: Logical, bias: Logical) -> tuple[Row, ...]:
    """A LayerNorm: a weight and a bias, which are both there."""
    return (row(f"{stored}.weight", weight, "hidden"), row(f"{stored}.bias", bias, "hidden"))


# Four norms a layer: post_attention_layernorm is what it says here, and not the feed-forward block's (Gemma 2).
NORMS_AROUND = (
    row("input_layernorm.weight", INPUT_NORM, "hidden"),
    row("post_attention_layernorm.weight", POST_ATTENTION_NORM, "hidden"),
    row("pre_feedforward_layernorm.weight", PRE_MLP_NORM, "hidden"),
    row("post_feedforward_layernorm.weight", POST_MLP_NORM, "hidden"),
)
# Llama's two as LayerNorms; and one LayerNorm for both blocks, which are computed side by side.
LAYER_NORMS = layer_norm("input_layernorm", INPUT_NORM, INPUT_NORM_BIAS) + layer_norm(
    "post_attention_layernorm", PRE_MLP_NORM, PRE_MLP_NORM_BIAS
)
PARALLEL_LAYER_NORM = layer_norm("input_layernorm", PARALLEL_NORM, PARALLEL_NORM_BIAS)
