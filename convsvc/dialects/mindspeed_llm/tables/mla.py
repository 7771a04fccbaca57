"""Multi-head latent attention and the sparse attention's indexer.

Both down projections lie one after the other in one linear_qkv, which every tensor rank holds whole; where queries have no low rank,
the queries' projection stands in the place of theirs. Up projections are cut by heads, as linear_proj is. The norms bear GQA's names.
"""

from __future__ import annotations

from convsvc.blocks.dsa import INDEX_KEY, INDEX_KEY_NORM, INDEX_KEY_NORM_BIAS, INDEX_QUERY, INDEX_WEIGHTS
from convsvc.blocks.mla import KV_DOWN, KV_DOWN_NORM, KV_UP, LATENT_PROJ, Q_DOWN, Q_DOWN_NORM, Q_UP, Q_WHOLE
from convsvc.tensors.declare import part, row

DOWN = (
    part(Q_WHOLE, "(head query_dim) hidden"),
    part(Q_DOWN,  "q_rank hidden"),
    part(KV_DOWN, "latent hidden"),
)  # fmt: skip
MLA = (
    row("self_attention.linear_qkv.weight",    DOWN),
    row("self_attention.q_layernorm.weight",   Q_DOWN_NORM,  "q_rank"),
    row("self_attention.kv_layernorm.weight",  KV_DOWN_NORM, "kv_rank"),
    row("self_attention.linear_proj.weight",   LATENT_PROJ,  "hidden (head value_dim)", tp="head"),
)  # fmt: skip
MLA_UP = (
    row("self_attention.linear_q_up_proj.weight",  Q_UP,  "(head query_dim) q_rank",  tp="head"),
    row("self_attention.linear_kv_up_proj.weight", KV_UP, "(head key_value) kv_rank", tp="head"),
)  # fmt: skip
# mla_mm_split: a matrix each for what has a position and what has none.
MLA_UP_SPLIT = (
    row("self_attention.linear_qk_nope.weight", Q_UP.at(query_dim="0:nope_dim"),          "(head query_dim) q_rank",  tp="head"),
    row("self_attention.linear_qk_rope.weight", Q_UP.at(query_dim="nope_dim:query_dim"),  "(head query_dim) q_rank",  tp="head"),
    row("self_attention.linear_kv_nope.weight", KV_UP.at(key_value="0:nope_dim"),         "(head key_value) kv_rank", tp="head"),
    row("self_attention.linear_v.weight",       KV_UP.at(key_value="nope_dim:key_value"), "(head key_value) kv_rank", tp="head"),
)  # fmt: skip
INDEXERS = (
    row("self_attention.dsa_indexer.wq_b.weight",         INDEX_QUERY,         "(index_head index_dim) q_rank"),
    row("self_attention.dsa_indexer.wk.weight",           INDEX_KEY,           "index_dim hidden"),
    row("self_attention.dsa_indexer.k_norm.weight",       INDEX_KEY_NORM,      "index_dim"),
    row("self_attention.dsa_indexer.k_norm.bias",         INDEX_KEY_NORM_BIAS, "index_dim"),
    row("self_attention.dsa_indexer.weights_proj.weight", INDEX_WEIGHTS,       "index_head hidden"),
)  # fmt: skip
