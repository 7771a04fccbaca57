"""Falcon: a group's queries, key and value are neighbours in one stored tensor; most compute both blocks side by side.

transformers 5.23: FalconAttention._split_heads.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import fourfold_sizes, ungated
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.norms import (
    PARALLEL_MLP_NORM,
    PARALLEL_MLP_NORM_BIAS,
    PARALLEL_NORM,
    PARALLEL_NORM_BIAS,
    layer_norm,
)
from convsvc.families import bloom
from convsvc.families.gpt_neox import IN_TURN, SIDE_BY_SIDE, fused
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows

FALCON_TWO = layer_norm("ln_attn", PARALLEL_NORM, PARALLEL_NORM_BIAS) + layer_norm("ln_mlp", PARALLEL_MLP_NORM, PARALLEL_MLP_NORM_BIAS)


def falcon_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """The new architecture has two norms side by side unless it counts one, the old one has one; or two in turn (parallel_attn false)."""
    biased = facts.flag("bias")
    is_new = facts.flag("new_decoder_architecture")
    if is_new:
        norms = FALCON_TWO if facts.number("num_ln_in_parallel_attn", default=2) == 2 else SIDE_BY_SIDE[:2]
    else:
        norms = SIDE_BY_SIDE[:2] if facts.flag("parallel_attn", default=True) else IN_TURN
    mlp = ungated("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", biased=biased)
    return LayerRows(norms + fused("self_attention", biased=biased) + mlp)


def falcon_sizes(facts: Facts) -> dict[str, int]:
    """Groups: num_kv_heads in the new architecture, one where queries share all (multi_query), else as many as heads."""
    heads = facts.number("heads")
    if facts.flag("new_decoder_architecture"):
        groups = facts.first_number(("num_kv_heads", "n_head_kv", "num_key_value_heads"), default=heads)
    else:
        groups = 1 if facts.flag("multi_query", default=True) else heads
    return gqa_sizes(Facts({**facts.values, "num_key_value_heads": groups}, facts.origin))


FAMILY = replace(
    bloom.FAMILY,
    name="falcon",
    title="Falcon",
    model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
    architectures=("FalconForCausalLM", "RWForCausalLM"),
    norms=FALCON_TWO,
    sizes=(falcon_sizes, fourfold_sizes),
    layer=falcon_layer,
    embedding=bloom.FAMILY.embedding[:1],
    names={"epsilon": "layer_norm_epsilon"},
    fields=("new_decoder_architecture", "multi_query", "parallel_attn", "num_kv_heads", "num_ln_in_parallel_attn", "bias", "alibi"),
)
