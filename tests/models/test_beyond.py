"""What a configuration makes a model compute beyond its weights is found, and nothing is said where there is nothing to say."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.families import FAMILIES, Facts
from convsvc.models.beyond import growing_queries, layers_without_positions, local_positions, multipliers, windows
from tests.roundtrip.any_family import SIBLINGS


def facts(**config: Any) -> Facts:
    return Facts({"num_hidden_layers": 8, **config}, "config.json")


@pytest.mark.parametrize(
    ("find", "config", "words"),
    [
        (multipliers, {"embedding_multiplier": 12.0, "residual_multiplier": 1.0}, "(embedding_multiplier 12.0)"),
        (multipliers, {"logits_scaling": 6.0, "attention_multiplier": 0.015625}, "(attention_multiplier 0.015625, logits_scaling 6.0)"),
        (layers_without_positions, {"no_rope_layers": [1, 0, 1, 1, 0, 1, 1, 1]}, "2 layers (1, 4)"),
        (layers_without_positions, {"no_rope_layer_interval": 4}, "2 layers (3, 7)"),
        (windows, {"sliding_window": 4096}, "layers see a window of 4096"),
        (windows, {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}, "1 layers see a window of 64"),
        (windows, {"sliding_window": 64, "sliding_window_pattern": 6}, "all layers but every 6th see a window"),
        (local_positions, {"rope_local_base_freq": 10000.0}, "rotary positions of another base"),
        (local_positions, {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rotary positions of another base"),
        (growing_queries, {"rope_parameters": {"llama_4_scaling_beta": 0.1}}, "llama_4_scaling_beta 0.1"),
    ],
)
def test_what_training_must_be_told_is_found(find: Any, config: dict[str, Any], words: str) -> None:
    said = find(facts(**config))
    assert words in said
    assert "training must be told" in said


@pytest.mark.parametrize(
    ("find", "config"),
    [
        (multipliers, {"embedding_multiplier": 1.0, "logits_scaling": 1}),
        (layers_without_positions, {"no_rope_layers": [1] * 8}),
        (windows, {"sliding_window": None}),
        (windows, {"sliding_window": 64, "layer_types": ["full_attention"]}),
        (local_positions, {"rope_parameters": {"rope_theta": 1e6}}),
        (growing_queries, {"rope_parameters": {"llama_4_scaling_beta": 0}}),
        (growing_queries, {}),
    ],
)
def test_nothing_is_said_where_there_is_nothing(find: Any, config: dict[str, Any]) -> None:
    assert find(facts(**config)) is None


def test_granites_factors_reach_the_model() -> None:
    config = {name: value[0] if isinstance(value, tuple) else value for name, value in SIBLINGS["granite"].items()}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 2, "residual_multiplier": 0.22}
    model = FAMILIES["granite"].build(Facts(config, "config.json"))
    assert len(model.advice) == 1
    assert "residual_multiplier 0.22" in model.advice[0]
