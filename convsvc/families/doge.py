"""Doge: Llama with weighed residuals and attention whose mask follows from values; retrieved experts beside the MLP (transformers 5.23)."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

from convsvc.blocks.glu import GLU_BIASES, glu_sizes
from convsvc.blocks.gqa import GQA, O_BIAS, QK_NORM, QKV_BIASES, gqa_sizes
from convsvc.blocks.norms import NORMS
from convsvc.blocks.own import own
from convsvc.families import llama2
from convsvc.models.facts import Facts

RETRIEVED = (
    own("mlp.router_gate.weight", "two_keys hidden"),
    own("mlp.down_embed.weight", "retrieved hidden"),
    own("mlp.up_embed.weight", "retrieved hidden"),
)


def doge_sizes(facts: Facts) -> dict[str, int]:
    """two_keys: twice the root of the number of retrieved experts, which are rows of two embeddings (DogeCDMoE)."""
    experts = facts.number("experts", default=16384) if facts.flag("is_moe") else 0
    groups = gqa_sizes(facts)
    return {"key_inner": groups["group"] * groups["head_dim"], "two_keys": 2 * isqrt(experts), "retrieved": experts}


FAMILY = replace(
    llama2.FAMILY,
    name="doge",
    title="Doge",
    model_types=("doge",),
    architectures=("DogeForCausalLM",),
    norms=(*NORMS, own("input_residual", "hidden"), own("post_attention_residual", "hidden")),
    attention=(*GQA, *QK_NORM, own("self_attn.A", "group"), own("self_attn.dt_proj.weight", "group key_inner")),
    flags=(
        ("attention_bias", (*QKV_BIASES, *O_BIAS, own("self_attn.dt_proj.bias", "group"))),
        ("mlp_bias", GLU_BIASES),
        ("is_moe", RETRIEVED),
    ),
    sizes=(gqa_sizes, glu_sizes, doge_sizes),
    fields=("is_moe",),
)
