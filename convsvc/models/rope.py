"""Rotary positions as a configuration says them, read in transformers' order. Pure.

transformers 5 has all of it in `rope_parameters`, per layer type where types differ; older ones have `rope_theta` and
`partial_rotary_factor` beside `rope_scaling`, which may be left behind, stale, when a configuration is saved again. The nested
values come first (transformers/modeling_rope_utils.py, RotaryEmbeddingConfigMixin.convert_rope_params_to_dict, 5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsvc.models.facts import Facts

# What makes a scaling another one; a field that only one side has takes the other's default, and is not compared.
SCALING = (
    "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor", "mscale",
    "mscale_all_dim", "attention_factor", "short_factor", "long_factor",
)  # fmt: skip


def rope_of(facts: Facts) -> Mapping[str, Mapping[str, Any]]:
    """layer type ("" where there is one rope for all) -> its parameters, among them rope_theta, rope_type, partial_rotary_factor.

    What the configuration does not say is not in it.

    >>> rope_of(Facts({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "config.json"))
    {'': {'rope_theta': 1000000.0}}
    >>> rope_of(Facts({"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 4.0}}, "config.json"))
    {'': {'rope_theta': 10000.0, 'type': 'yarn', 'factor': 4.0, 'rope_type': 'yarn'}}
    """
    nested = facts.get("rope_scaling") or facts.get("rope_parameters")
    nested = nested if isinstance(nested, Mapping) else {}
    by_type = {name: values for name, values in nested.items() if isinstance(values, Mapping)}
    return {name: _one(facts, values) for name, values in (by_type or {"": nested}).items()}


def _one(facts: Facts, nested: Mapping[str, Any]) -> Mapping[str, Any]:
    beside = {name: facts.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    values = {name: value for name, value in {**beside, **nested}.items() if value is not None}
    kind = values.get("rope_type", values.get("type"))
    return values if kind is None else {**values, "rope_type": kind}


def rope_base(facts: Facts) -> Any:
    """The base, where there is one for all layers; None where the configuration is silent or has several."""
    bases = {values.get("rope_theta") for values in rope_of(facts).values() if isinstance(values.get("rope_theta"), int | float)}
    return bases.pop() if len(bases) == 1 else None
