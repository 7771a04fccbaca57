"""Norms that Megatron has not, or cuts otherwise."""

from __future__ import annotations

from convsvc.blocks.gqa import K_NORM_WIDE, Q_NORM_WIDE
from convsvc.blocks.norms import POST_ATTENTION_NORM, POST_MLP_NORM
from convsvc.tensors.declare import row

NORMS_AFTER = (
    row("post_attn_norm.weight",              POST_ATTENTION_NORM, "hidden"),
    row("post_mlp_layernorm.weight",          POST_MLP_NORM,       "hidden"),
)  # fmt: skip
# Over all heads, and yet every tensor rank holds all of it (minimax_m2).
WIDE_NORMS = (
    row("self_attention.q_layernorm.weight",  Q_NORM_WIDE,  "(group query head_dim)"),
    row("self_attention.k_layernorm.weight",  K_NORM_WIDE,  "(group head_dim)"),
)  # fmt: skip
