"""Compressed sparse attention (DeepSeek-V4): queries through a low rank, one key that is the value too, far tokens compressed.

Sizes: head, head_dim, q_rank; o_group and o_rank: the heads' outputs go through a low rank group by group, o_input wide. A layer with
a compressor makes one token of `ratio`, with weights `compressed` wide; where the ratio is 4 windows overlap, so that it is twice
head_dim, and an indexer (index_head, index_dim, and a compressor of its own, index_compressed) chooses among the compressed tokens.
Heads and their groups are cut over tensor ranks; the rest every rank holds whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsvc.blocks.moe import TOKEN_EXPERTS
from convsvc.errors import SourceError
from convsvc.models.facts import Facts, is_count, shown
from convsvc.models.model import Model
from convsvc.tensors.declare import Row, logical, row

OVERLAPPING = 4
# transformers 5.23, DeepseekV4Config: a layer's kind, and how many tokens become one where compress_rates does not say.
SLIDING, SPARSE, HEAVY = KINDS = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")
RATES = {SPARSE: OVERLAPPING, HEAVY: 128}

LOW_QUERY = logical("self_attention.linear_q.weight", "q_rank hidden", over="hidden")
LOW_QUERY_NORM = logical("self_attention.low_query_layernorm.weight", "q_rank")
QUERY_UP = logical("self_attention.linear_query_up.weight", "head head_dim q_rank", over="q_rank")
SHARED_KEY = logical("self_attention.linear_kv.weight", "head_dim hidden", over="hidden")
SHARED_KEY_NORM = logical("self_attention.shared_key_layernorm.weight", "head_dim")
SINK = logical("self_attention.attn_sink", "head")
OUTPUT_DOWN = logical("self_attention.linear_o_down_proj.weight", "o_group o_rank o_input", over="o_input")
OUTPUT_UP = logical("self_attention.linear_o_up_proj.weight", "hidden o_group o_rank", over="o_group o_rank")

POSITIONS = logical("self_attention.compressor.ape", "ratio compressed")
COMPRESSOR_NORM = logical("self_attention.compressor.norm.weight", "head_dim")
COMPRESSOR_GATE = logical("self_attention.compressor.wgate.weight", "compressed hidden")
COMPRESSOR_KEY = logical("self_attention.compressor.wkv.weight", "compressed hidden")
CHOICE_POSITIONS = logical("self_attention.indexer.kv_compressor.ape", "ratio index_compressed")
CHOICE_NORM = logical("self_attention.indexer.kv_compressor.norm.weight", "index_dim")
CHOICE_GATE = logical("self_attention.indexer.kv_compressor.wgate.weight", "index_compressed hidden")
CHOICE_KEY = logical("self_attention.indexer.kv_compressor.wkv.weight", "index_compressed hidden")
CHOICE_QUERY = logical("self_attention.indexer.wq_b.weight", "index_head index_dim q_rank", over="q_rank")
CHOICE_WEIGHTS = logical("self_attention.indexer.weights_proj.weight", "index_head hidden")

ATTENTION = (
    row("attn.attn_sink", SINK, "head", keep="F32"),
    row("attn.kv_norm.weight", SHARED_KEY_NORM, "head_dim"),
    row("attn.q_norm.weight", LOW_QUERY_NORM, "q_rank"),
    row("attn.wq_a.weight", LOW_QUERY, "q_rank hidden"),
    row("attn.wq_b.weight", QUERY_UP, "(head head_dim) q_rank"),
    row("attn.wkv.weight", SHARED_KEY, "head_dim hidden"),
    row("attn.wo_a.weight", OUTPUT_DOWN, "(o_group o_rank) o_input"),
    row("attn.wo_b.weight", OUTPUT_UP, "hidden (o_group o_rank)"),
)
COMPRESSOR = (
    row("attn.compressor.ape", POSITIONS, "ratio compressed", keep="F32"),
    row("attn.compressor.norm.weight", COMPRESSOR_NORM, "head_dim"),
    row("attn.compressor.wgate.weight", COMPRESSOR_GATE, "compressed hidden"),
    row("attn.compressor.wkv.weight", COMPRESSOR_KEY, "compressed hidden"),
)
COMPRESSED_INDEXER = (
    row("attn.indexer.compressor.ape", CHOICE_POSITIONS, "ratio index_compressed", keep="F32"),
    row("attn.indexer.compressor.norm.weight", CHOICE_NORM, "index_dim"),
    row("attn.indexer.compressor.wgate.weight", CHOICE_GATE, "index_compressed hidden"),
    row("attn.indexer.compressor.wkv.weight", CHOICE_KEY, "index_compressed hidden"),
    row("attn.indexer.wq_b.weight", CHOICE_QUERY, "(index_head index_dim) q_rank"),
    row("attn.indexer.weights_proj.weight", CHOICE_WEIGHTS, "index_head hidden"),
)


def compressed_attention_sizes(facts: Facts) -> dict[str, int]:
    """The sizes that all layers share.

    Raises SourceError if the heads cannot be grouped for the output.
    """
    heads, head_dim, groups = facts.number("heads"), facts.number("head_dim"), facts.number("o_groups")
    if not groups or heads % groups:
        raise SourceError(f"{facts.origin}: {heads} attention heads do not come out even in o_groups {groups}")
    return {
        "head": heads,
        "head_dim": head_dim,
        "q_rank": facts.number("q_lora_rank"),
        "o_group": groups,
        "o_rank": facts.number("o_lora_rank"),
        "o_input": heads // groups * head_dim,
        "index_head": facts.number("index_n_heads"),
        "index_dim": facts.number("index_head_dim"),
    }


def saved_args(model: Model, facts: Facts) -> dict[str, Any]:
    """What DeepSeek-V4's configuration says layer by layer, of the layers that are here or beside; MTP layers come last."""
    layers = [scope for scope in (*model.scopes, *model.beside) if "ratio" in scope.sizes]
    if not layers:
        return {}
    by_token = sum(TOKEN_EXPERTS.name in scope.logicals for scope in layers)
    return {"compress_ratios": [scope.sizes["ratio"] for scope in layers], "num_hash_layers": by_token, "n_hash_layers": by_token}


def compressor_of(facts: Facts, layer: int) -> tuple[tuple[Row, ...], dict[str, int]]:
    """A layer's compressor and indexer, and their sizes. An MTP layer that compress_ratios does not reach has none.

    Raises SourceError if compress_ratios does not cover the hidden layers, or is not what layer_types says.
    """
    ratios = compress_ratios(facts) or ()
    layers = facts.num_layers
    if len(ratios) < layers:
        given = shown(facts.get("compress_ratios"))
        raise SourceError(f"{facts.origin}: compress_ratios is {given}; it must have a number for each of {layers} layers")
    ratio = ratios[layer] if layer < len(ratios) else 0
    if not ratio:
        return (), {"ratio": 0}
    windows = 2 if ratio == OVERLAPPING else 1
    widths = {"compressed": windows * facts.number("head_dim"), "index_compressed": windows * facts.number("index_head_dim")}
    return COMPRESSOR + (COMPRESSED_INDEXER if ratio == OVERLAPPING else ()), {"ratio": ratio, **widths}


def compress_ratios(facts: Facts) -> tuple[int, ...] | None:
    """How many tokens become one, layer by layer: DeepSeek's list, or transformers' layer_types and compress_rates; None where neither is.

    DeepSeek's may go on with MTP layers'. Raises SourceError if the two differ, or if the ratio would not show a layer's kind.
    """
    ratios, kinds = facts.items("compress_ratios", int), facts.items("layer_types", str)
    if kinds is None:
        return ratios
    stated = facts.get("compress_rates", default={})
    rates = {SLIDING: 0, **RATES, **(stated if isinstance(stated, Mapping) else {})}
    counts = isinstance(stated, Mapping) and all(map(is_count, rates.values()))
    if not counts or rates[SPARSE] != OVERLAPPING or rates[HEAVY] in (0, OVERLAPPING):
        raise SourceError(
            f"{facts.origin}: compress_rates is {shown(stated)}; it must be {OVERLAPPING} for {SPARSE}, and another number for {HEAVY}"
        )
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise SourceError(f"{facts.origin}: layer_types has {shown(unknown[0])}; known are {', '.join(KINDS)}")
    implied = tuple(rates[kind] for kind in kinds)
    if ratios is not None and ratios[: len(implied)] != implied[: len(ratios)]:
        raise SourceError(f"{facts.origin}: compress_ratios is {shown(list(ratios))}, layer_types makes it {shown(list(implied))}")
    return ratios if ratios is not None else implied
