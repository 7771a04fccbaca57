"""LFM2: short convolutions in most layers, attention in the others."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import FINAL_NORM
from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import GQA, K_NORM, PROJ, Q_NORM, gqa_sizes
from convsvc.blocks.moe import ROUTER_BIAS
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.blocks.own import own
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

CONVOLUTION = (
    own("conv.in_proj.weight", "three_hidden hidden"),
    own("conv.conv.weight", "hidden single conv_kernel"),
    own("conv.out_proj.weight", "hidden out"),
)
ATTENTION = (
    *GQA[:3],
    row("self_attn.out_proj.weight", PROJ, "hidden (group query head_dim)"),
    row("self_attn.q_layernorm.weight", Q_NORM, "head_dim"),
    row("self_attn.k_layernorm.weight", K_NORM, "head_dim"),
)
BIAS = (row("feed_forward.expert_bias", ROUTER_BIAS, "expert", keep="F32"),)


def lfm2_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A convolution or attention, and a dense block or experts. Without a word of which, all have attention."""
    kinds = facts.items("layer_types", str)
    full = facts.items("full_attn_idxs", int)
    is_full = kinds[layer] == "full_attention" if kinds is not None else full is None or layer in full
    is_sparse = bool(family.experts) and layer >= facts.number("num_dense_layers", default=0)
    bias = BIAS if is_sparse and facts.flag("use_expert_bias", default=True) else ()
    rows = family.norms + (ATTENTION if is_full else CONVOLUTION) + (family.experts + bias if is_sparse else family.mlp)
    return LayerRows(rows, dense=not is_sparse)


def lfm2_sizes(facts: Facts) -> dict[str, int]:
    """ffn: where it is adjusted (block_auto_adjust_ff_dim), two thirds of what is said, times a factor, rounded up (Lfm2MLP)."""
    ffn, hidden = facts.number("ffn", default=facts.number("block_ff_dim", default=0)), facts.number("hidden")
    if facts.flag("block_auto_adjust_ff_dim"):
        factor, multiple = facts.get("block_ffn_dim_multiplier"), facts.number("block_multiple_of", default=256)
        ffn = int(2 * ffn / 3)
        ffn = ffn if factor is None else -(-int(factor * ffn) // multiple) * multiple
    kernel = facts.first_number(("conv_L_cache",), default=3)
    return {"glu": 2, "ffn": ffn, "three_hidden": 3 * hidden, "out": hidden, "single": 1, "conv_kernel": kernel}


FAMILY = replace(
    llama2.FAMILY,
    name="lfm2",
    title="LFM2",
    model_types=("lfm2",),
    architectures=("Lfm2ForCausalLM",),
    norms=(row("operator_norm.weight", INPUT_NORM, "hidden"), row("ffn_norm.weight", PRE_MLP_NORM, "hidden")),
    attention=ATTENTION,
    mlp=(
        row("feed_forward.w1.weight", FC1.at(glu="0"), "ffn hidden"),
        row("feed_forward.w3.weight", FC1.at(glu="1"), "ffn hidden"),
        row("feed_forward.w2.weight", FC2, "hidden ffn"),
    ),
    flags=(),
    sizes=(gqa_sizes, lfm2_sizes),
    layer=lfm2_layer,
    final_norm=(row("model.embedding_norm.weight", FINAL_NORM, "hidden"),),
    tied_by_default=True,
    names={"epsilon": "norm_eps"},
    fields=("layer_types", "full_attn_idxs", "block_auto_adjust_ff_dim", "conv_L_cache"),
)
