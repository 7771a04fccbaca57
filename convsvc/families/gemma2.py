"""Gemma 2: Llama with a norm after attention and after the feed-forward block too, and tied embeddings."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.norms import NORMS_AROUND
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="gemma2",
    title="Gemma 2",
    model_types=("gemma2",),
    architectures=("Gemma2ForCausalLM",),
    norms=NORMS_AROUND,
    flags=(),
    tied_by_default=True,
    zero_centred=True,
    names={"activation": "hidden_activation"},
    # Its activation is a gated tanh-GELU, its norms multiply by 1 + weight, its embedding is scaled.
    megatron={"swiglu": False, "gelu_tanh": True, "post_norm": True, "add_rmsnorm_offset": True, "input_embeds_norm": True},
)
