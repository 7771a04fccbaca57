"""Persimmon: GPT-NeoX's fused heads and names, norms in turn, and LayerNorms of queries and keys (transformers 5.23)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING_ROWS, FINAL_NORM, FINAL_NORM_BIAS, OUTPUT_ROWS, TIED_OUTPUT_ROWS
from convsvc.blocks.norms import layer_norm
from convsvc.families import gpt_neox
from convsvc.families.gpt_neox import IN_TURN, fused
from convsvc.families.phi import HEAD_NORMS
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows


def persimmon_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Queries and keys have norms unless the configuration denies it."""
    norms = HEAD_NORMS if facts.flag("qk_layernorm", default=True) else ()
    return LayerRows(family.norms + family.attention + norms + family.mlp)


FAMILY = replace(
    gpt_neox.FAMILY,
    name="persimmon",
    title="Persimmon",
    model_types=("persimmon",),
    architectures=("PersimmonForCausalLM",),
    norms=IN_TURN,
    attention=fused("self_attn"),
    layer=persimmon_layer,
    embedding=EMBEDDING_ROWS,
    final_norm=layer_norm("model.final_layernorm", FINAL_NORM, FINAL_NORM_BIAS),
    output=OUTPUT_ROWS,
    tied_output=TIED_OUTPUT_ROWS,
    layer_prefix="model.layers.{layer}.",
    ignored=(r"rotary_emb\.inv_freq$",),
    fields=("qk_layernorm",),
    partial_rotary=0.5,
    megatron={**gpt_neox.PLAIN, "squared_relu": True},
)
