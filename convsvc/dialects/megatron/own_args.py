"""Megatron core's words for what its rank files of other frameworks do not have, for `--use-checkpoint-args` and the way back. Pure.

By the names of megatron/core/transformer/transformer_config.py; `apply_layernorm_1p` is training's name of layernorm_zero_centered_gamma
(megatron/training/arguments.py, core_transformer_config_from_args).
"""

from __future__ import annotations

from typing import Any

from convsvc.blocks.dsa import INDEX_KEY, ROTATES_NEIGHBOURS
from convsvc.blocks.linear_attention import GATED_QUERY
from convsvc.blocks.moe import ROUTER_BIAS, SHARED_GATE
from convsvc.dialects.megatron.tables import has_indexers, is_delta_net
from convsvc.dialects.megatron.told_args import told_args
from convsvc.errors import LayoutError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.words import NORMALISED, PARTIAL, ROPE_SCALING, WORDS

# Of a yarn that latent attention is told by fields of its own (MLATransformerConfig).
YARN = ("mscale", "mscale_all_dim", "beta_fast", "beta_slow", "original_max_position_embeddings")
# Of the indexers' key norms in all such models, whatever that of the others is (transformers, DeepseekV32Indexer, GlmMoeDsaIndexer).
INDEX_NORM_EPSILON = 1e-6


def own_args(model: Model, facts: Facts) -> dict[str, Any]:
    """What a model of these families needs said; `facts` are its configuration's."""
    args = told_args(model, facts) | ({"apply_layernorm_1p": True} if model.family.zero_centred else {})
    args |= {"attention_output_gate": True} if model.layers_have(GATED_QUERY) else {}
    args |= {"rotary_percent": said.value} if (said := PARTIAL.in_config(facts)) is not None else {}
    for of_kind in (_routers, _latent, _sparse, _delta_nets):
        args |= of_kind(model, facts)
    return args | {name: value for name, value in model.family.megatron.items() if name in args}


def _routers(model: Model, facts: Facts) -> dict[str, Any]:
    """What a router makes of its scores: over all experts or the chosen ones, by groups, scaled (core/transformer/moe/moe_utils.py)."""
    if not model.num_experts:
        return {}
    biased = model.layers_have(ROUTER_BIAS)
    said = {word.args[0]: found.value for word in WORDS if word.args and (found := word.in_config(facts)) is not None}
    scores = said.get("moe_router_score_function", facts.get("moe_router_score_function")) or ("sigmoid" if biased else "softmax")
    normalised = NORMALISED.said(facts)
    args = {"moe_router_score_function": scores, "moe_router_pre_softmax": normalised is not None and normalised.value is False}
    args |= {"moe_router_enable_expert_bias": True} if biased else {}
    args |= {"moe_shared_expert_gate": True} if model.layers_have(SHARED_GATE) else {}
    grouped = said.get("moe_router_num_groups", 1) != 1
    names = ("moe_router_topk_scaling_factor", *(("moe_router_num_groups", "moe_router_group_topk") if grouped else ()))
    return args | {name: said[name] for name in names if name in said}


def _latent(model: Model, facts: Facts) -> dict[str, Any]:
    """Latent attention's rotary positions, which are yarn's where nothing is said."""
    if "kv_rank" not in model.sizes:
        return {}
    said = ROPE_SCALING.in_config(facts)
    if said is None and facts.get("rope_type") in ("rope", "yarn"):  # training's own words, which stay as they are
        return {}
    scaling = said.value if said is not None and said.value.get("rope_type") == "yarn" else None
    if scaling is None:
        return {"rope_type": "rope"}
    return {
        "rope_type": "yarn",
        "rotary_scaling_factor": scaling.get("factor"),
        **{name: scaling[name] for name in YARN if name in scaling},
    }


def _sparse(model: Model, facts: Facts) -> dict[str, Any]:
    """Attention whose tokens an indexer chooses, from 0.19 on in layers of every pattern that a frequency and an offset say.

    Raises LayoutError for another pattern.
    """
    if not has_indexers(model):
        return {}
    own = [INDEX_KEY.name in scope.logicals for scope in model.layers()]
    count = len(own)
    fitting = ((often, first) for often in range(1, count + 1) for first in range(1, count + 1) if own == _pattern(count, often, first))
    found = next(fitting, None)
    if found is None:
        raise LayoutError(
            f"the layers of this {model.family.name} with an indexer of their own follow no frequency, which Megatron core has alone",
            facts=[f"they are {[layer for layer, each in enumerate(own) if each][:20]} of {count}"],
        )
    return {
        "experimental_attention_variant": "dsa",
        "dsa_indexer_n_heads": model.sizes["index_head"],
        "dsa_indexer_head_dim": model.sizes["index_dim"],
        "dsa_indexer_topk": facts.get("index_topk", "dsa_indexer_topk"),
        "dsa_indexer_topk_freq": found[0],
        "dsa_indexer_skip_topk_offset": found[1] if found[0] > 1 else 0,
        "dsa_indexer_k_norm_epsilon": facts.values.get("dsa_indexer_k_norm_epsilon", INDEX_NORM_EPSILON),
        ROTATES_NEIGHBOURS: model.family.megatron.get(ROTATES_NEIGHBOURS, False),
    }


def _pattern(count: int, often: int, first: int) -> list[bool]:
    """Which layers have one (core 0.19.2, experimental_attention_variant/dsa.py, is_dsa_skip_topk_layer, which counts from 1).

    >>> _pattern(6, 2, 3)
    [True, True, True, False, True, False]
    """
    return [max(layer + 1 - first, 0) % often == 0 for layer in range(count)]


def _delta_nets(model: Model, facts: Facts) -> dict[str, Any]:
    if "key_head" not in model.sizes:
        return {}
    sizes, linear = model.sizes, list(map(is_delta_net, model.layers()))
    return {
        "experimental_attention_variant": "gated_delta_net" if any(linear) else None,
        "linear_attention_freq": list(map(int, linear)),
        "linear_conv_kernel_dim": sizes["conv_kernel"],
        "linear_key_head_dim": sizes["key_dim"],
        "linear_value_head_dim": sizes["value_dim"],
        "linear_num_key_heads": sizes["key_head"],
        "linear_num_value_heads": sizes["key_head"] * sizes["value"],
    }
