"""What a configuration and saved args say of how weights are computed with: read in transformers' order, compared, defaults apart."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.families import FAMILIES, Facts
from convsvc.models.rope import rope_base, rope_of
from convsvc.models.words import EPSILON, contradictions, foreign_computations, own_contradictions, silences

TRAINED: dict[str, Any] = {
    "num_layers": 2, "hidden_size": 32, "rotary_base": 10000, "norm_epsilon": 1e-5, "rotary_percent": 1.0, "swiglu": True,
    "window_size": None, "apply_layernorm_1p": False, "rotary_interleaved": False, "use_rope_scaling": False, "moe_router_topk": 2,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "num_hidden_layers": 2, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu", "num_experts_per_tok": 2,
}  # fmt: skip


def between(args: dict[str, Any], config: dict[str, Any], family: str = "llama2") -> list[str]:
    return list(contradictions(Facts(args, "args"), Facts(config, "config.json"), FAMILIES[family]))


def test_what_agrees_by_other_names_is_no_contradiction() -> None:
    assert between(TRAINED, CONFIG) == []


@pytest.mark.parametrize(
    ("args", "config"),
    [
        pytest.param({"rotary_base": 1_000_000}, {}, id="rotary base"),
        pytest.param({}, {"rope_theta": 500000.0}, id="rotary base that training left at its default"),
        pytest.param({}, {"rope_theta": 10000.0, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, id="stale rope_theta"),
        pytest.param({"norm_epsilon": 1e-6}, {}, id="epsilon"),
        pytest.param({"rotary_percent": 0.5}, {}, id="a part of each head, which the configuration does not mention"),
        pytest.param({"rotary_percent": 0.5}, {"partial_rotary_factor": 0.25}, id="another part of each head"),
        pytest.param({"swiglu": True}, {"hidden_act": "gelu"}, id="activation"),
        pytest.param({"window_size": (127, 0)}, {"sliding_window": 4096}, id="window"),
        pytest.param({"moe_router_topk": 4}, {}, id="experts of a token"),
        pytest.param({"use_rope_scaling": True}, {"rope_scaling": {"type": "linear", "factor": 8.0}}, id="kind of scaling"),
        pytest.param(
            {"rope_scaling_type": "yarn", "rope_scaling_factor": 40}, {"rope_scaling": {"type": "yarn", "factor": 4}}, id="factor"
        ),
        pytest.param({"moe_router_topk_scaling_factor": 2.5}, {"routed_scaling_factor": 1.0}, id="the router's factor"),
        pytest.param({"layer_types": ["a", "b"]}, {"layer_types": ["b", "a"]}, id="kinds of layers"),
        pytest.param({"num_experts": 4, "moe_router_pre_softmax": False}, {"norm_topk_prob": False}, id="softmax over the chosen"),
        pytest.param({"num_experts": 4, "moe_router_pre_softmax": True}, {"norm_topk_prob": True}, id="softmax over all"),
        pytest.param({"dsa_indexer_rope_interleaved": False}, {"indexer_rope_interleave": True}, id="what an indexer rotates"),
    ],
)  # fmt: skip
def test_a_contradiction_is_told_with_both_values(args: dict[str, Any], config: dict[str, Any]) -> None:
    (line,) = between(TRAINED | args, CONFIG | config)
    assert line.startswith("args: ")
    assert "; config.json: " in line


@pytest.mark.parametrize(
    ("args", "config"),
    [
        pytest.param(
            {"rotary_base": 10000, "norm_epsilon": 1e-5, "moe_router_topk": 2}, {"rope_theta": 5e5, "rms_norm_eps": 1e-6}, id="bare"
        ),
        pytest.param({"rope_theta": 5e5, "rotary_base": 10000}, {"rope_theta": 5e5}, id="beside Hugging Face's own name"),
        pytest.param({"hidden_activation": "gelu_pytorch_tanh", "swiglu": True}, {"hidden_activation": "gelu_pytorch_tanh"}, id="gated"),
        pytest.param({"rotary_percent": 1.0}, {"partial_rotary_factor": 0.5}, id="all of a head"),
    ],
)
def test_megatrons_defaults_in_args_that_a_converter_wrote_are_not_meant(args: dict[str, Any], config: dict[str, Any]) -> None:
    assert between({"num_hidden_layers": 2, **args}, config) == []


@pytest.mark.parametrize(
    "args",
    [
        {"num_experts": None, "moe_router_pre_softmax": True},
        {"num_experts": 4, "moe_router_pre_softmax": False},
        {"num_experts": 4, "moe_router_pre_softmax": True, "moe_router_score_function": "sigmoid"},
        {"num_experts": 4, "moe_router_pre_softmax": True, "norm_topk_prob": True},
    ],
    ids=["dense", "over the chosen", "sigmoid", "MindSpeed-LLM's own word"],
)
def test_a_softmax_over_all_experts_is_of_routers_with_softmax_whose_scores_no_other_word_norms(args: dict[str, Any]) -> None:
    assert between(TRAINED | args, CONFIG | {"norm_topk_prob": True}) == []


def test_a_part_of_each_head_is_no_contradiction_where_the_models_class_has_that_default() -> None:
    args = TRAINED | {"rotary_percent": 0.5}
    assert between(args, CONFIG, "glm4") == []
    assert between(args, {**CONFIG, "head_dim": 8, "rotary_dim": 4}) == []


@pytest.mark.parametrize("window", [(4096, 0), (4095, 0), [4096, -1]])
def test_a_window_counts_the_token_itself_or_not(window: Any) -> None:
    assert between(TRAINED | {"window_size": window}, CONFIG | {"sliding_window": 4096}) == []
    assert between(TRAINED | {"window_size": window}, CONFIG | {"sliding_window": 64, "use_sliding_window": False}) == []


@pytest.mark.parametrize(
    ("family", "args", "said"),
    [
        ("llama2", {"apply_layernorm_1p": True}, "apply_layernorm_1p"),
        ("gemma2", {"apply_layernorm_1p": True}, None),
        ("qwen3", {"rotary_interleaved": True}, "rotary_interleaved"),
        ("glm4", {"rotary_interleaved": True}, None),
        ("llama2", {"position_embedding_type": "none"}, "position_embedding_type"),
        ("mamba2", {"position_embedding_type": "none"}, None),
    ],
)
def test_what_a_familys_model_computes_otherwise_is_told(family: str, args: dict[str, Any], said: str | None) -> None:
    lines = list(foreign_computations(Facts(TRAINED | args, "args"), FAMILIES[family]))
    assert [line.split()[0] for line in lines] == ([said] if said else [])


def test_a_scaling_or_window_that_training_was_not_told_of_is_worth_a_word() -> None:
    config = Facts(CONFIG | {"rope_scaling": {"type": "yarn", "factor": 4.0}, "sliding_window": 64}, "config.json")
    lines = list(silences(Facts(TRAINED, "args"), config))
    assert [line.split()[2] for line in lines] == ["rope_scaling", "sliding_window"]
    assert list(silences(Facts({"num_hidden_layers": 2}, "converted"), config)) == []


def test_args_that_say_one_thing_twice_must_say_the_same() -> None:
    said = {"num_hidden_layers": 2, "rope_theta": 1e6, "rms_norm_eps": 1e-6}
    assert list(own_contradictions(Facts({**said, "rotary_base": 1e6, "norm_epsilon": 1e-5}, "args"))) == []
    assert list(own_contradictions(Facts({**said, "rotary_base": 5e5}, "args"))) == ["rope_theta 1000000.0, rotary_base 500000.0"]


def test_rotary_positions_are_read_as_transformers_reads_them() -> None:
    assert rope_base(Facts({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "c")) == 1e6
    assert rope_base(Facts({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default"}}, "c")) == 1e4
    assert rope_base(Facts({"rope_theta": 1e4, "rope_parameters": None}, "c")) == 1e4
    by_type = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}
    assert {name: rope["rope_theta"] for name, rope in rope_of(Facts({"rope_theta": 7, "rope_parameters": by_type}, "c")).items()} == {
        "full_attention": 1e6, "sliding_attention": 1e4,
    }  # fmt: skip
    assert rope_base(Facts({"rope_parameters": by_type}, "c")) is None


def test_an_epsilon_that_nothing_says_is_not_said() -> None:
    assert EPSILON.said(Facts({"num_hidden_layers": 2}, "config.json")) is None
