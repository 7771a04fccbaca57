"""StarCoder 1, SantaCoder (GPT-BigCode): all queries share one key and value; learned positions."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import (
    EMBEDDING,
    FINAL_NORM,
    FINAL_NORM_BIAS,
    POSITIONS,
)
from convsvc.blocks.glu import fourfold_sizes, ungated
from convsvc.blocks.gqa import PACKED_QKV, PACKED_QKV_BIAS, PROJ, PROJ_BIAS, QKV, QKV_BIAS, gqa_sizes
from convsvc.blocks.norms import (
    INPUT_NORM,
    INPUT_NORM_BIAS,
    PRE_MLP_NORM,
    PRE_MLP_NORM_BIAS,
    layer_norm,
)
from convsvc.families import llama2
from convsvc.families.gpt_neox import PLAIN
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row


def bigcode_sizes(facts: Facts) -> dict[str, int]:
    """One group where all queries share a key (multi_query), else as many as heads; the learned positions' number."""
    groups = 1 if facts.flag("multi_query", default=True) else facts.number("heads")
    positions = facts.first_number(("n_positions", "max_position_embeddings"), default=1024)
    return {**gqa_sizes(Facts({**facts.values, "num_key_value_heads": groups}, facts.origin)), "position": positions}


def bigcode_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """All queries, then the key and the value; where every head has its own, they are neighbours head by head."""
    if facts.flag("multi_query", default=True):
        return LayerRows(family.norms + family.attention + family.mlp)
    fused = (
        row("attn.c_attn.weight", QKV, "(group slot head_dim) hidden"),
        row("attn.c_attn.bias", QKV_BIAS, "(group slot head_dim)"),
    )
    return LayerRows(family.norms + fused + family.attention[2:] + family.mlp)


FAMILY = replace(
    llama2.FAMILY,
    name="gpt-bigcode",
    title="StarCoder, SantaCoder (GPT-BigCode)",
    model_types=("gpt_bigcode",),
    architectures=("GPTBigCodeForCausalLM",),
    norms=layer_norm("ln_1", INPUT_NORM, INPUT_NORM_BIAS) + layer_norm("ln_2", PRE_MLP_NORM, PRE_MLP_NORM_BIAS),
    attention=(
        row("attn.c_attn.weight", PACKED_QKV),
        row("attn.c_attn.bias", PACKED_QKV_BIAS),
        row("attn.c_proj.weight", PROJ, "hidden (group query head_dim)"),
        row("attn.c_proj.bias", PROJ_BIAS, "hidden"),
    ),
    mlp=ungated("mlp.c_fc", "mlp.c_proj", biased=True),
    flags=(),
    sizes=(bigcode_sizes, fourfold_sizes),
    layer=bigcode_layer,
    fields=("multi_query", "n_positions"),
    embedding=(
        row("transformer.wte.weight", EMBEDDING, "vocab hidden"),
        row("transformer.wpe.weight", POSITIONS, "position hidden"),
    ),
    final_norm=layer_norm("transformer.ln_f", FINAL_NORM, FINAL_NORM_BIAS),
    tied_by_default=True,
    layer_prefix="transformer.h.{layer}.",
    ignored=(r"\.attn\.(bias|masked_bias)$",),
    names={"layers": "n_layer", "heads": "n_head", "ffn": "n_inner", "epsilon": "layer_norm_epsilon"},
    megatron={**PLAIN, "position_embedding_type": "learned_absolute", "use_rotary_position_embeddings": False},
)
