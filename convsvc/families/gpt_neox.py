"""GPT-NeoX and Pythia: a head's query, key and value are neighbours in one stored tensor; LayerNorms.

transformers 5.23: GPTNeoXAttention views `heads, 3 * head_dim` and chunks. Most compute attention and feed-forward block side by side,
which Megatron does not.
"""

from __future__ import annotations

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, FINAL_NORM_BIAS, OUTPUT
from convsvc.blocks.glu import ungated, ungated_sizes
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV, QKV_BIAS, headed_sizes
from convsvc.blocks.norms import (
    INPUT_NORM,
    INPUT_NORM_BIAS,
    PARALLEL_MLP_NORM,
    PARALLEL_MLP_NORM_BIAS,
    PARALLEL_NORM,
    PARALLEL_NORM_BIAS,
    PRE_MLP_NORM,
    PRE_MLP_NORM_BIAS,
    layer_norm,
)
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows, Rows
from convsvc.tensors.declare import row

IN_TURN = layer_norm("input_layernorm", INPUT_NORM, INPUT_NORM_BIAS) + layer_norm(
    "post_attention_layernorm", PRE_MLP_NORM, PRE_MLP_NORM_BIAS
)
SIDE_BY_SIDE = layer_norm("input_layernorm", PARALLEL_NORM, PARALLEL_NORM_BIAS) + layer_norm(
    "post_attention_layernorm", PARALLEL_MLP_NORM, PARALLEL_MLP_NORM_BIAS
)
PLAIN = {"normalization": "LayerNorm", "swiglu": False}
MLP = ungated("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", biased=True)


def fused(module: str, *, biased: bool = True) -> Rows:
    """Queries, key and value of a group as neighbours, and what gathers the heads."""
    weights = (
        row(f"{module}.query_key_value.weight", QKV, "(group slot head_dim) hidden"),
        row(f"{module}.dense.weight", PROJ, "hidden (group query head_dim)"),
    )
    biases = (
        row(f"{module}.query_key_value.bias", QKV_BIAS, "(group slot head_dim)"),
        row(f"{module}.dense.bias", PROJ_BIAS, "hidden"),
    )
    return weights + biases if biased else weights


def neox_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Side by side unless the configuration denies it; attention's biases unless it has none."""
    norms = SIDE_BY_SIDE if facts.flag("use_parallel_residual", default=True) else IN_TURN
    return LayerRows(norms + fused("attention", biased=facts.flag("attention_bias", default=True)) + family.mlp)


FAMILY = Family(
    name="gpt-neox",
    title="GPT-NeoX, Pythia",
    model_types=("gpt_neox",),
    architectures=("GPTNeoXForCausalLM",),
    norms=SIDE_BY_SIDE,
    attention=fused("attention"),
    mlp=MLP,
    packed=(),
    sizes=(headed_sizes, ungated_sizes),
    layer=neox_layer,
    embedding=(row("gpt_neox.embed_in.weight", EMBEDDING, "vocab hidden"),),
    final_norm=layer_norm("gpt_neox.final_layer_norm", FINAL_NORM, FINAL_NORM_BIAS),
    output=(row("embed_out.weight", OUTPUT, "vocab hidden", also=("lm_head.weight",)),),
    tied_output=(row("embed_out.weight", EMBEDDING, "vocab hidden", optional=True, written=False),),
    layer_prefix="gpt_neox.layers.{layer}.",
    ignored=(r"\.attention\.(bias|masked_bias)$", r"rotary_emb\.inv_freq$"),
    names={"epsilon": "layer_norm_eps"},
    fields=("use_parallel_residual", "attention_bias"),
    partial_rotary=0.25,
    megatron=PLAIN,
)
