"""Hyper-connections: in every layer, and where the streams are joined."""

from __future__ import annotations

from convsvc.blocks.hyper_connections import (
    ATTENTION_MIX,
    ATTENTION_MIX_BASE,
    ATTENTION_MIX_SCALE,
    JOIN,
    JOIN_BASE,
    JOIN_SCALE,
    JOINED_NORM,
    MLP_MIX,
    MLP_MIX_BASE,
    MLP_MIX_SCALE,
)
from convsvc.tensors.declare import row

HYPER_CONNECTIONS = (
    row("attn_mhc.hc_base",      ATTENTION_MIX_BASE,  "mix"),
    row("attn_mhc.hc_fn.weight", ATTENTION_MIX,       "mix (stream hidden)"),
    row("attn_mhc.hc_scale",     ATTENTION_MIX_SCALE, "mix_scale"),
    row("mlp_mhc.hc_base",       MLP_MIX_BASE,        "mix"),
    row("mlp_mhc.hc_fn.weight",  MLP_MIX,             "mix (stream hidden)"),
    row("mlp_mhc.hc_scale",      MLP_MIX_SCALE,       "mix_scale"),
)  # fmt: skip
_JOIN = (
    ("hc_head.hc_base",          JOIN_BASE,           "joined"),
    ("hc_head.hc_fn.weight",     JOIN,                "joined (stream hidden)"),
    ("hc_head.hc_scale",         JOIN_SCALE,          "single"),
)  # fmt: skip
JOINED_STREAMS = tuple(row(*each) for each in _JOIN)
MTP_JOINED_STREAMS = tuple(row("mtp.layers.{mtp}." + stored, what, order) for stored, what, order in _JOIN)
# With or without MTP layers it is not the decoder's (MindSpeed-LLM, deepseek4).
JOINED_NORMS = (row("final_layernorm.weight", JOINED_NORM, "hidden"),)
