"""Multi-head latent attention: queries, and keys with values, through a low rank each.

Sizes: head; q_rank and kv_rank, the low ranks; nope_dim and rope_dim, a key's parts without and with a rotary position, query_dim their
sum; value_dim, a head's value; latent = kv_rank + rope_dim, as one shared rotary key is projected together with the latent; key_value =
nope_dim + value_dim. In `query_dim` and `key_value` the part without position comes first, on both sides (transformers DeepseekV3Attention,
megatron/core/transformer/multi_latent_attention.py), and nothing is permuted on the way.
"""

from __future__ import annotations

from typing import Any

from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.tensors.declare import logical, row

Q_DOWN = logical("self_attention.linear_q_down_proj.weight", "q_rank hidden", over="hidden")
KV_DOWN = logical("self_attention.linear_kv_down_proj.weight", "latent hidden", over="hidden")
Q_UP = logical("self_attention.linear_q_up_proj.weight", "head query_dim q_rank", over="q_rank")
KV_UP = logical("self_attention.linear_kv_up_proj.weight", "head key_value kv_rank", over="kv_rank")
# Where queries have no low rank.
Q_WHOLE = logical("self_attention.linear_q_proj.weight", "head query_dim hidden", over="hidden")
# GQA's linear_proj and q_layernorm have other axes, so these have names of their own; in files they are called alike.
LATENT_PROJ = logical("self_attention.linear_value_proj.weight", "hidden head value_dim", over="head value_dim")
Q_DOWN_NORM = logical("self_attention.q_down_layernorm.weight", "q_rank")
KV_DOWN_NORM = logical("self_attention.kv_layernorm.weight", "kv_rank")

_KV_AND_OUTPUT = (
    row("self_attn.kv_a_proj_with_mqa.weight", KV_DOWN, "latent hidden"),
    row("self_attn.kv_a_layernorm.weight", KV_DOWN_NORM, "kv_rank"),
    row("self_attn.kv_b_proj.weight", KV_UP, "(head key_value) kv_rank"),
    row("self_attn.o_proj.weight", LATENT_PROJ, "hidden (head value_dim)"),
)
MLA = (
    row("self_attn.q_a_proj.weight", Q_DOWN, "q_rank hidden"),
    row("self_attn.q_a_layernorm.weight", Q_DOWN_NORM, "q_rank"),
    row("self_attn.q_b_proj.weight", Q_UP, "(head query_dim) q_rank"),
    *_KV_AND_OUTPUT,
)
MLA_WHOLE_QUERIES = (row("self_attn.q_proj.weight", Q_WHOLE, "(head query_dim) hidden"), *_KV_AND_OUTPUT)


def mla_sizes(facts: Facts) -> dict[str, int]:
    """All of the module's sizes; q_rank only where queries have one."""
    # Megatron's qk_head_dim is the part without position; transformers writes the sum under that name beside qk_nope_head_dim.
    nope = facts.first_number(("qk_nope_head_dim", "qk_head_dim"))
    rope = facts.first_number(("qk_rope_head_dim", "qk_pos_emb_head_dim"))
    kv_rank, value = facts.number("kv_lora_rank"), facts.number("v_head_dim")
    sizes = {
        "head": facts.number("heads"),
        "nope_dim": nope or facts.number("qk_nope_head_dim"),
        "rope_dim": rope or facts.number("qk_rope_head_dim"),
        "query_dim": nope + rope,
        "value_dim": value,
        "kv_rank": kv_rank,
        "latent": kv_rank + rope,
        "key_value": nope + value,
    }
    return sizes | ({"q_rank": facts.number("q_lora_rank")} if has_query_rank(facts) else {})


def saved_args(model: Model, facts: Facts) -> dict[str, Any]:
    """Megatron's names (megatron/core/transformer/transformer_config.py, MLATransformerConfig); qk_head_dim is without the rotary part."""
    sizes = model.sizes
    if "kv_rank" not in sizes:
        return {}
    return {
        "q_lora_rank": sizes.get("q_rank"),
        "kv_lora_rank": sizes["kv_rank"],
        "qk_head_dim": sizes["nope_dim"],
        "qk_nope_head_dim": sizes["nope_dim"],
        "qk_pos_emb_head_dim": sizes["rope_dim"],
        "qk_rope_head_dim": sizes["rope_dim"],
        "v_head_dim": sizes["value_dim"],
    }


def has_query_rank(facts: Facts) -> bool:
    """Whether queries go through a low rank."""
    return bool(facts.get("q_lora_rank"))
