"""Grouped-query attention."""

from __future__ import annotations

from convsvc.blocks.gqa import K_NORM, PROJ, PROJ_BIAS, Q_NORM, QKV, QKV_BIAS
from convsvc.tensors.declare import row

GQA = (
    row("self_attention.linear_qkv.weight",   QKV,          "(group slot head_dim) hidden",   tp="group"),
    row("self_attention.linear_qkv.bias",     QKV_BIAS,     "(group slot head_dim)",          tp="group"),
    row("self_attention.linear_proj.weight",  PROJ,         "hidden (group query head_dim)",  tp="group"),
    row("self_attention.linear_proj.bias",    PROJ_BIAS,    "hidden"),
    row("self_attention.q_layernorm.weight",  Q_NORM,       "head_dim"),
    row("self_attention.k_layernorm.weight",  K_NORM,       "head_dim"),
)  # fmt: skip
