"""Gated delta nets, and attention whose queries, keys and values stay apart. Both are cut by heads: a rank holds a smaller model."""

from __future__ import annotations

from convsvc.blocks.linear_attention import (
    DELTA_A_LOG,
    DELTA_BA,
    DELTA_CONV,
    DELTA_DT_BIAS,
    DELTA_NORM,
    DELTA_OUT,
    DELTA_QKVZ,
    GATED_KEY,
    GATED_QUERY,
    GATED_VALUE,
)
from convsvc.tensors.declare import row

LINEAR_ATTENTION = (
    row("self_attention.in_proj_qkvz.weight", DELTA_QKVZ, "(key_head qkvz) hidden",            tp="key_head"),
    row("self_attention.in_proj_ba.weight",   DELTA_BA,   "(key_head ba) hidden",              tp="key_head"),
    row("self_attention.conv1d.weight",       DELTA_CONV,                                      tp="key_head"),
    row("self_attention.dt_bias",             DELTA_DT_BIAS, "(key_head value)",               tp="key_head"),
    row("self_attention.A_log",               DELTA_A_LOG,   "(key_head value)",               tp="key_head"),
    row("self_attention.norm.weight",         DELTA_NORM,    "value_dim"),
    row("self_attention.out_proj.weight",     DELTA_OUT,  "hidden (key_head value value_dim)", tp="key_head"),
    row("self_attention.q_proj.weight", GATED_QUERY, "(group query gated head_dim) hidden",    tp="group"),
    row("self_attention.k_proj.weight", GATED_KEY,   "(group head_dim) hidden",                tp="group"),
    row("self_attention.v_proj.weight", GATED_VALUE, "(group head_dim) hidden",                tp="group"),
)  # fmt: skip
