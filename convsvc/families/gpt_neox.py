"""GPT-NeoX and Pythia, BLOOM, Falcon: a head's (a group's) query, key and value are neighbours in one stored tensor; LayerNorms.

transformers 5.23: GPTNeoXAttention views `heads, 3 * head_dim` and chunks, BloomAttention and FalconAttention._split_heads likewise. Most
compute attention and feed-forward block side by side, which Megatron does not.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, FINAL_NORM_BIAS, OUTPUT
from convsvc.blocks.glu import fourfold_sizes, ungated, ungated_sizes
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV, QKV_BIAS, gqa_sizes, headed_sizes
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
from convsvc.tensors.declare import logical, row

EMBEDDING_NORM = logical("embedding_layernorm.weight", "hidden")
EMBEDDING_NORM_BIAS = logical("embedding_layernorm.bias", "hidden")
IN_TURN = layer_norm("input_layernorm", INPUT_NORM, INPUT_NORM_BIAS) + layer_norm(
    "post_attention_layernorm", PRE_MLP_NORM, PRE_MLP_NORM_BIAS
)
SIDE_BY_SIDE = layer_norm("input_layernorm", PARALLEL_NORM, PARALLEL_NORM_BIAS) + layer_norm(
    "post_attention_layernorm", PARALLEL_MLP_NORM, PARALLEL_MLP_NORM_BIAS
)
FALCON_TWO = layer_norm("ln_attn", PARALLEL_NORM, PARALLEL_NORM_BIAS) + layer_norm("ln_mlp", PARALLEL_MLP_NORM, PARALLEL_MLP_NORM_BIAS)
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


def falcon_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """The new architecture has two norms side by side unless it counts one, the old one has one; or two in turn (parallel_attn false)."""
    biased = facts.flag("bias")
    is_new = facts.flag("new_decoder_architecture")
    if is_new:
        norms = FALCON_TWO if facts.number("num_ln_in_parallel_attn", default=2) == 2 else SIDE_BY_SIDE[:2]
    else:
        norms = SIDE_BY_SIDE[:2] if facts.flag("parallel_attn", default=True) else IN_TURN
    mlp = ungated("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", biased=biased)
    return LayerRows(norms + fused("self_attention", biased=biased) + mlp)


def falcon_sizes(facts: Facts) -> dict[str, int]:
    """Groups: num_kv_heads in the new architecture, one where queries share all (multi_query), else as many as heads."""
    heads = facts.number("heads")
    if facts.flag("new_decoder_architecture"):
        groups = facts.first_number(("num_kv_heads", "n_head_kv", "num_key_value_heads"), default=heads)
    else:
        groups = 1 if facts.flag("multi_query", default=True) else heads
    return gqa_sizes(Facts({**facts.values, "num_key_value_heads": groups}, facts.origin))


NEOX = Family(
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
BLOOM = replace(
    NEOX,
    name="bloom",
    title="BLOOM",
    model_types=("bloom",),
    architectures=("BloomForCausalLM",),
    norms=IN_TURN,
    attention=fused("self_attention"),
    sizes=(headed_sizes, fourfold_sizes),
    layer=None,
    embedding=(
        row("transformer.word_embeddings.weight", EMBEDDING, "vocab hidden"),
        *layer_norm("transformer.word_embeddings_layernorm", EMBEDDING_NORM, EMBEDDING_NORM_BIAS),
    ),
    final_norm=layer_norm("transformer.ln_f", FINAL_NORM, FINAL_NORM_BIAS),
    output=(row("lm_head.weight", OUTPUT, "vocab hidden"),),
    tied_output=(row("lm_head.weight", EMBEDDING, "vocab hidden", optional=True, written=False),),
    tied_by_default=True,
    layer_prefix="transformer.h.{layer}.",
    ignored=(),
    names={"layers": "n_layer", "heads": "n_head", "epsilon": "layer_norm_epsilon"},
    fields=(),
    partial_rotary=1.0,
)
FALCON = replace(
    BLOOM,
    name="falcon",
    title="Falcon",
    model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
    architectures=("FalconForCausalLM", "RWForCausalLM"),
    norms=FALCON_TWO,
    sizes=(falcon_sizes, fourfold_sizes),
    layer=falcon_layer,
    embedding=BLOOM.embedding[:1],
    names={"epsilon": "layer_norm_epsilon"},
    fields=("new_decoder_architecture", "multi_query", "parallel_attn", "num_kv_heads", "num_ln_in_parallel_attn", "bias", "alibi"),
)
FAMILIES = (NEOX, BLOOM, FALCON)
