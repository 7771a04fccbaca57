"""BLOOM: GPT-NeoX with a norm behind the embedding and no positions but ALiBi's (transformers 5.23, BloomAttention)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, FINAL_NORM_BIAS, OUTPUT
from convsvc.blocks.glu import fourfold_sizes
from convsvc.blocks.gqa import headed_sizes
from convsvc.blocks.norms import (
    layer_norm,
)
from convsvc.families import gpt_neox
from convsvc.families.gpt_neox import IN_TURN, fused
from convsvc.tensors.declare import logical, row

EMBEDDING_NORM = logical("embedding_layernorm.weight", "hidden")
EMBEDDING_NORM_BIAS = logical("embedding_layernorm.bias", "hidden")
FAMILY = replace(
    gpt_neox.FAMILY,
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
