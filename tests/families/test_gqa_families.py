"""Families with grouped-query attention: detection, sizes, kinds of layers, and what a checkpoint may do without."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.blocks.gqa import K_NORM_WIDE, Q_NORM, Q_NORM_WIDE, QKV, QKV_BIAS
from convsvc.blocks.moe import ROUTER, ROUTER_BIAS, SHARED_FC1, SHARED_GATE, shared_sizes
from convsvc.blocks.norms import INPUT_NORM_BIAS, POST_ATTENTION_NORM, POST_MLP_NORM, PRE_MLP_NORM
from convsvc.dialects.mcore.saved_args import compose_args
from convsvc.dialects.mcore.settings import settings_for
from convsvc.families import FAMILIES, Facts, Model, find_family
from convsvc.models.family import Wanted
from convsvc.spec import parse_job
from tests.families.tiny_configs import DIFFERENCES, config

# What config.json calls otherwise than Megatron: args that training saved have none of these.
ONLY_HUGGING_FACES = (
    "num_hidden_layers",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "head_dim",
    "num_local_experts",
    "n_routed_experts",
    "num_nextn_predict_layers",
    "n_shared_experts",
    "num_shared_experts",
    "shared_expert_intermediate_size",
    "tie_word_embeddings",
    "attention_bias",
    "use_qk_norm",
    "first_k_dense_replace",
    "mlp_only_layers",
    "architectures",
    "model_type",
    "model_type_hf",
)


def build(family: str, **changes: Any) -> Model:
    return FAMILIES[family].build(Facts(config(family, **changes), "config.json"))


def row_of(model: Model, layer: int, name: str) -> Any:
    """The Hugging Face name of a logical tensor of a layer."""
    scope = model.layers()[layer]
    return [row.stored for row in scope.rows if name in {each.name for each in row.logicals}]


def shape_of(model: Model) -> list[tuple[Any, ...]]:
    """What a model is, without where it was read."""
    return [(scope.kind, scope.number, scope.dense, sorted(scope.logicals), sorted(scope.sizes.items())) for scope in model.scopes]


@pytest.mark.parametrize("family", DIFFERENCES)
def test_a_config_shows_its_family_and_no_other(family: str) -> None:
    assert find_family(None, Facts(config(family), "config.json")).name == family


@pytest.mark.parametrize("family", DIFFERENCES)
def test_a_config_without_architectures_shows_its_family_too(family: str) -> None:
    assert find_family(None, Facts(config(family, architectures=None), "config.json")).name == family


@pytest.mark.parametrize("family", DIFFERENCES)
def test_args_with_megatrons_names_alone_describe_the_same_model(family: str) -> None:
    facts = Facts(config(family), "config.json")
    model = FAMILIES[family].build(facts)
    target: Any = parse_job(
        {"source": {"format": "huggingface", "path": "/in"}, "target": {"format": "mindspeed-llm", "path": "/out"}, "options": {}}
    ).target
    saved = vars(compose_args(model, settings_for(target, model), facts))
    trained = Facts({name: value for name, value in saved.items() if name not in ONLY_HUGGING_FACES}, "args")
    wanted = Wanted(num_mtp=trained.first_number(("mtp_num_layers",)))
    assert shape_of(FAMILIES[family].build(trained, wanted)) == shape_of(model)


def test_gemma_has_a_norm_after_attention_where_others_have_the_feed_forward_blocks() -> None:
    model = build("gemma2")
    assert row_of(model, 0, POST_ATTENTION_NORM.name) == ["post_attention_layernorm.weight"]
    assert row_of(model, 0, PRE_MLP_NORM.name) == ["pre_feedforward_layernorm.weight"]
    assert row_of(model, 0, POST_MLP_NORM.name) == ["post_feedforward_layernorm.weight"]
    assert row_of(build("llama2"), 0, PRE_MLP_NORM.name) == ["post_attention_layernorm.weight"]


def test_gemma_is_tied_unless_its_config_says_otherwise() -> None:
    assert build("gemma2").tied
    assert not build("gemma2", tie_word_embeddings=False).tied


@pytest.mark.parametrize("switch", ["attention_bias", "add_qkv_bias"])
def test_seed_oss_has_biases_where_either_name_of_the_switch_says_so(switch: str) -> None:
    assert QKV_BIAS.name in build("seed-oss", **{"attention_bias": None, switch: True}).layers()[0].logicals
    assert QKV_BIAS.name not in build("seed-oss", **{"attention_bias": None, switch: False}).layers()[0].logicals


def test_a_packed_qkv_is_all_queries_then_all_keys_then_all_values() -> None:
    (row,) = [row for row in build("bailing_mini").layers()[0].rows if QKV in row.logicals]
    assert row.stored == "attention.query_key_value.weight"
    assert [dict(part.selection.where)["slot"] for part in row.parts] == ["0:query", "query", "query + 1"]


def test_qwen2_moe_is_dense_where_mlp_only_layers_says_so() -> None:
    layers = build("qwen2-moe").layers()
    assert [scope.dense for scope in layers] == [False, True, False, False]
    assert SHARED_GATE.name in layers[0].logicals
    assert SHARED_GATE.name not in layers[1].logicals


@pytest.mark.parametrize(
    ("facts", "width"),
    [
        ({"shared_expert_intermediate_size": 12, "moe_intermediate_size": 8}, 12),
        ({"n_shared_experts": 2, "moe_intermediate_size": 8}, 16),
        ({"num_shared_experts": 3, "moe_intermediate_size": 8}, 24),
        ({"n_shared_experts": None, "moe_shared_expert_intermediate_size": 40}, 40),
        ({"n_shared_experts": 0, "moe_intermediate_size": 8}, 0),
        ({}, 0),
    ],
)
def test_shared_experts_are_as_wide_as_all_of_them_whatever_the_name(facts: dict[str, Any], width: int) -> None:
    assert shared_sizes(Facts(facts, "config.json"))["shared_ffn"] == width


def test_a_model_with_no_shared_experts_has_no_tensors_for_them() -> None:
    assert SHARED_FC1.name in build("glm45").layers()[3].logicals
    assert SHARED_FC1.name not in build("glm45", n_shared_experts=0).layers()[3].logicals


def test_the_larger_glm_differs_from_air_in_the_norms_of_heads() -> None:
    larger, air = build("glm45").layers()[0].logicals, build("glm45-air").layers()[0].logicals
    assert Q_NORM.name in larger - air


@pytest.mark.parametrize("family", ["glm45", "HYV3", "bailing_mini"])
def test_an_mtp_layer_has_experts_though_the_list_of_layers_ends_before_it(family: str) -> None:
    model = build(family, first_k_dense_replace=None, moe_layer_freq=[0, 1, 1, 1])
    (block,) = [scope for scope in model.scopes if scope.kind == "mtp_block"]
    assert not block.dense
    assert ROUTER_BIAS.name in block.logicals


def test_minimax_has_one_norm_over_all_query_heads_and_one_over_all_key_heads() -> None:
    model = build("minimax_m2")
    assert Q_NORM_WIDE.axes == ("group", "query", "head_dim")
    assert K_NORM_WIDE.axes == ("group", "head_dim")
    assert {Q_NORM_WIDE.name, K_NORM_WIDE.name} <= model.layers()[0].logicals
    assert row_of(model, 0, ROUTER.name) == ["block_sparse_moe.gate.weight"]


def test_where_every_layer_has_experts_their_width_may_be_called_intermediate_size() -> None:
    assert build("minimax_m2").sizes["expert_ffn"] == 24
    assert build("minimax_m2", moe_intermediate_size=8).sizes["expert_ffn"] == 8


def test_phis_biases_are_what_a_checkpoint_may_do_without_but_not_its_queries() -> None:
    scope = build("phi3.5-moe").layers()[0]
    assert INPUT_NORM_BIAS.name in scope.optionals
    assert QKV_BIAS.name in scope.logicals - scope.optionals


def test_a_scope_without_a_tensor_keeps_all_others() -> None:
    model = build("phi3.5-moe")
    absent = frozenset({f"decoder.layers.2.{INPUT_NORM_BIAS.name}"})
    without = model.without(absent)
    assert without.layers()[2].logicals == model.layers()[2].logicals - {INPUT_NORM_BIAS.name}
    assert without.layers()[1] == model.layers()[1]
