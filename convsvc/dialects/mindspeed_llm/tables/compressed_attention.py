"""Compressed sparse attention. Heads, and the output's groups of heads, are cut; what compresses and chooses is whole on every rank."""

from __future__ import annotations

from convsvc.blocks.compressed_attention import (
    CHOICE_GATE,
    CHOICE_KEY,
    CHOICE_NORM,
    CHOICE_POSITIONS,
    CHOICE_QUERY,
    CHOICE_WEIGHTS,
    COMPRESSOR_GATE,
    COMPRESSOR_KEY,
    COMPRESSOR_NORM,
    LOW_QUERY,
    LOW_QUERY_NORM,
    OUTPUT_DOWN,
    OUTPUT_UP,
    POSITIONS,
    QUERY_UP,
    SHARED_KEY,
    SHARED_KEY_NORM,
    SINK,
)
from convsvc.tensors.declare import row

COMPRESSED_ATTENTION = (
    row("self_attention.attn_sink",                 SINK,            "head",                     tp="head"),
    row("self_attention.kv_layernorm.weight",       SHARED_KEY_NORM, "head_dim"),
    row("self_attention.q_layernorm.weight",        LOW_QUERY_NORM,  "q_rank"),
    row("self_attention.linear_q.weight",           LOW_QUERY,       "q_rank hidden"),
    row("self_attention.linear_q_up_proj.weight",   QUERY_UP,        "(head head_dim) q_rank",   tp="head"),
    row("self_attention.linear_kv.weight",          SHARED_KEY,      "head_dim hidden"),
    row("self_attention.linear_o_down_proj.weight", OUTPUT_DOWN,     "(o_group o_rank) o_input", tp="o_group"),
    row("self_attention.linear_o_up_proj.weight",   OUTPUT_UP,       "hidden (o_group o_rank)",  tp="o_group"),
    row("self_attention.compressor.ape",            POSITIONS,       "ratio compressed"),
    row("self_attention.compressor.norm.weight",    COMPRESSOR_NORM, "head_dim"),
    row("self_attention.compressor.wgate.weight",   COMPRESSOR_GATE, "compressed hidden"),
    row("self_attention.compressor.wkv.weight",     COMPRESSOR_KEY,  "compressed hidden"),
    row("self_attention.indexer.kv_compressor.ape",          CHOICE_POSITIONS, "ratio index_compressed"),
    row("self_attention.indexer.kv_compressor.norm.weight",  CHOICE_NORM,      "index_dim"),
    row("self_attention.indexer.kv_compressor.wgate.weight", CHOICE_GATE,      "index_compressed hidden"),
    row("self_attention.indexer.kv_compressor.wkv.weight",   CHOICE_KEY,       "index_compressed hidden"),
    row("self_attention.indexer.wq_b.weight",                CHOICE_QUERY,     "(index_head index_dim) q_rank"),
    row("self_attention.indexer.weights_proj.weight",        CHOICE_WEIGHTS,   "index_head hidden"),
)  # fmt: skip
