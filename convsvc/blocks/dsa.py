"""The indexer of DeepSeek's sparse attention: a small attention that chooses which tokens the large one sees.

Sizes: index_head and index_dim. It is too small to be cut: every tensor rank holds all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.tensors.declare import logical, row

INDEX_QUERY = logical("self_attention.dsa_indexer.wq_b.weight", "index_head index_dim q_rank", over="q_rank")
INDEX_KEY = logical("self_attention.dsa_indexer.wk.weight", "index_dim hidden", over="hidden")
INDEX_KEY_NORM = logical("self_attention.dsa_indexer.k_norm.weight", "index_dim")
INDEX_KEY_NORM_BIAS = logical("self_attention.dsa_indexer.k_norm.bias", "index_dim")
INDEX_WEIGHTS = logical("self_attention.dsa_indexer.weights_proj.weight", "index_head hidden")

# Megatron core's word (from 0.19) for whether an indexer rotates neighbours in a head together, or its halves.
ROTATES_NEIGHBOURS = "dsa_indexer_rope_interleaved"

INDEXER = (
    row("self_attn.indexer.wq_b.weight", INDEX_QUERY, "(index_head index_dim) q_rank"),
    row("self_attn.indexer.wk.weight", INDEX_KEY, "index_dim hidden"),
    row("self_attn.indexer.k_norm.weight", INDEX_KEY_NORM, "index_dim"),
    row("self_attn.indexer.k_norm.bias", INDEX_KEY_NORM_BIAS, "index_dim"),
    row("self_attn.indexer.weights_proj.weight", INDEX_WEIGHTS, "index_head hidden"),
)


def dsa_sizes(facts: Facts) -> dict[str, int]:
    """index_head and index_dim."""
    return {"index_head": facts.number("index_n_heads"), "index_dim": facts.number("index_head_dim")}


def saved_args(model: Model, facts: Facts) -> dict[str, Any]:
    """Which layers have an indexer of their own, where any has."""
    indexed = [INDEX_KEY.name in scope.logicals for scope in model.layers()]
    return {"indexer_types": ["full" if own else "shared" for own in indexed]} if any(indexed) else {}


def indexed_layers(facts: Facts) -> Callable[[int], bool]:
    """Which layers have an indexer of their own; the others use that of a layer before them. MTP layers have one.

    In the order in which transformers looks (GlmMoeDsaConfig): indexer_types, index_topk_pattern ("FSS"), index_topk_freq with
    index_skip_topk_offset; without any, every layer.
    """
    pattern = facts.get("index_topk_pattern")
    kinds = facts.items("indexer_types", str) or (pattern if isinstance(pattern, str) else facts.items("index_topk_pattern", str))
    if kinds is not None:
        return lambda layer: layer >= len(kinds) or kinds[layer] in ("full", "F")
    frequency, first = facts.number("index_topk_freq", default=1), facts.number("index_skip_topk_offset", default=2)
    last = facts.num_layers
    return lambda layer: layer >= last or max(layer - first + 1, 0) % max(frequency, 1) == 0
