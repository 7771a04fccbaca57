"""Norms and grouped-query attention."""

from __future__ import annotations

from convsvc.blocks.gqa import K_NORM, K_NORM_WIDE, PROJ, PROJ_BIAS, Q_NORM, Q_NORM_WIDE, QKV, QKV_BIAS
from convsvc.blocks.norms import (
    INPUT_NORM,
    INPUT_NORM_BIAS,
    POST_ATTENTION_NORM,
    POST_MLP_NORM,
    PRE_MLP_NORM,
    PRE_MLP_NORM_BIAS,
)
from convsvc.tensors.declare import row

NORMS = (
    row("input_layernorm.weight",             INPUT_NORM,          "hidden"),
    row("input_layernorm.bias",               INPUT_NORM_BIAS,     "hidden"),
    row("pre_mlp_layernorm.weight",           PRE_MLP_NORM,        "hidden"),
    row("pre_mlp_layernorm.bias",             PRE_MLP_NORM_BIAS,   "hidden"),
    row("post_attn_norm.weight",              POST_ATTENTION_NORM, "hidden"),
    row("post_mlp_layernorm.weight",          POST_MLP_NORM,       "hidden"),
)  # fmt: skip
GQA = (
    row("self_attention.linear_qkv.weight",   QKV,          "(group slot head_dim) hidden",   tp="group"),
    row("self_attention.linear_qkv.bias",     QKV_BIAS,     "(group slot head_dim)",          tp="group"),
    row("self_attention.linear_proj.weight",  PROJ,         "hidden (group query head_dim)",  tp="group"),
    row("self_attention.linear_proj.bias",    PROJ_BIAS,    "hidden"),
    row("self_attention.q_layernorm.weight",  Q_NORM,       "head_dim"),
    row("self_attention.k_layernorm.weight",  K_NORM,       "head_dim"),
    # Over all heads, and yet every tensor rank holds all of it (MindSpeed-LLM, minimax_m2).
    row("self_attention.q_layernorm.weight",  Q_NORM_WIDE,  "(group query head_dim)"),
    row("self_attention.k_layernorm.weight",  K_NORM_WIDE,  "(group head_dim)"),
)  # fmt: skip

# Transformer Engine fuses a norm into the linear layer behind it. MindSpeed-LLM's converter keeps pre_mlp_layernorm in models
# without experts; training's own spec (TELayerNormColumnParallelLinear) does not know that name there.
TE_FUSED_NORMS = {
    INPUT_NORM.name: row("self_attention.linear_qkv.layer_norm_weight", INPUT_NORM, "hidden"),
    INPUT_NORM_BIAS.name: row("self_attention.linear_qkv.layer_norm_bias", INPUT_NORM_BIAS, "hidden"),
}
TE_FUSED_DENSE_NORMS = {
    PRE_MLP_NORM.name: row("mlp.linear_fc1.layer_norm_weight", PRE_MLP_NORM, "hidden", also=("pre_mlp_layernorm.weight",)),
    PRE_MLP_NORM_BIAS.name: row("mlp.linear_fc1.layer_norm_bias", PRE_MLP_NORM_BIAS, "hidden", also=("pre_mlp_layernorm.bias",)),
}
