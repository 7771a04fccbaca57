"""Grouped-query attention. A group is the queries that share a key and a value; multi-head attention has groups of one query.

Sizes: group = key-value heads, query = queries a group, slot = query + 2 (the queries, the key, the value), head_dim. Megatron fuses
all three projections group by group (megatron/core/transformer/attention.py, SelfAttention.get_query_key_value_tensors).
"""

from __future__ import annotations

from typing import Any

from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.tensors.declare import logical, part, row

QKV = logical("self_attention.linear_qkv.weight", "group slot head_dim hidden", over="hidden")
QKV_BIAS = logical("self_attention.linear_qkv.bias", "group slot head_dim")
PROJ = logical("self_attention.linear_proj.weight", "hidden group query head_dim", over="group query head_dim")
PROJ_BIAS = logical("self_attention.linear_proj.bias", "hidden")
Q_NORM = logical("self_attention.q_layernorm.weight", "head_dim")
K_NORM = logical("self_attention.k_layernorm.weight", "head_dim")
# One norm over all heads (MiniMax). In files it is called as the norm of a head is.
Q_NORM_WIDE = logical("self_attention.q_layernorm_wide.weight", "group query head_dim")
K_NORM_WIDE = logical("self_attention.k_layernorm_wide.weight", "group head_dim")
# A norm for each key head, which heads do not share (StableLM, Command R).
K_NORMS = logical("self_attention.k_layernorms.weight", "group head_dim")

GQA = (
    row("self_attn.q_proj.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    row("self_attn.k_proj.weight", QKV.at(slot="query"), "(group head_dim) hidden"),
    row("self_attn.v_proj.weight", QKV.at(slot="query + 1"), "(group head_dim) hidden"),
    row("self_attn.o_proj.weight", PROJ, "hidden (group query head_dim)"),
)
# All queries, all keys, all values: one stored tensor.
PACKED_QKV = (
    part(QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    part(QKV.at(slot="query"), "(group head_dim) hidden"),
    part(QKV.at(slot="query + 1"), "(group head_dim) hidden"),
)
PACKED_QKV_BIAS = (
    part(QKV_BIAS.at(slot="0:query"), "(group slot head_dim)"),
    part(QKV_BIAS.at(slot="query"), "(group head_dim)"),
    part(QKV_BIAS.at(slot="query + 1"), "(group head_dim)"),
)
GQA_PACKED = (
    row("self_attn.qkv_proj.weight", PACKED_QKV),
    row("self_attn.o_proj.weight", PROJ, "hidden (group query head_dim)"),
)
QKV_BIASES = (
    row("self_attn.q_proj.bias", QKV_BIAS.at(slot="0:query"), "(group slot head_dim)"),
    row("self_attn.k_proj.bias", QKV_BIAS.at(slot="query"), "(group head_dim)"),
    row("self_attn.v_proj.bias", QKV_BIAS.at(slot="query + 1"), "(group head_dim)"),
)
O_BIAS = (row("self_attn.o_proj.bias", PROJ_BIAS, "hidden"),)
QK_NORM = (
    row("self_attn.q_norm.weight", Q_NORM, "head_dim"),
    row("self_attn.k_norm.weight", K_NORM, "head_dim"),
)
QK_NORM_WIDE = (
    row("self_attn.q_norm.weight", Q_NORM_WIDE, "(group query head_dim)"),
    row("self_attn.k_norm.weight", K_NORM_WIDE, "(group head_dim)"),
)


def gqa_sizes(facts: Facts) -> dict[str, int]:
    """group, query, slot, head_dim. head_dim need not be hidden / heads.

    Raises SourceError if the heads cannot be grouped.
    """
    heads, groups = facts.number("heads"), facts.num_groups
    if not groups or not heads or heads % groups:
        raise SourceError(f"{facts.origin}: {heads} attention heads cannot share {groups} key-value heads evenly")
    hidden = facts.number("hidden")
    if facts.get("head_dim", "kv_channels") is None and hidden % heads:
        raise SourceError(f"{facts.origin}: hidden_size {hidden} is not a multiple of {heads} attention heads", do="state head_dim")
    query = heads // groups
    return {"group": groups, "query": query, "slot": query + 2, "head_dim": facts.number("head_dim", default=hidden // heads)}


def headed_sizes(facts: Facts) -> dict[str, int]:
    """As `gqa_sizes` of attention that has no groups: every head has its own key and value, whatever else a configuration says."""
    return gqa_sizes(Facts({**facts.values, "num_key_value_heads": facts.number("heads")}, facts.origin))


def saved_args(model: Model, facts: Facts) -> dict[str, Any]:
    """Groups and head_dim, and the switch for a bias that layers have."""
    sizes = model.sizes
    if "group" not in sizes:
        return {}
    heads = {"num_key_value_heads": sizes["group"], "num_query_groups": sizes["group"], "kv_channels": sizes["head_dim"]}
    biased = {"add_qkv_bias": True} if model.layers_have(QKV_BIAS) else {}
    return {**heads, "group_query_attention": sizes["query"] > 1, **biased}
