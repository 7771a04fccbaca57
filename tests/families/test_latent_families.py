"""The families with latent attention: how they are found, what their layers hold, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.blocks.dsa import INDEX_KEY, indexed_layers
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.mcore import rank_files
from convsvc.dialects.mcore.settings import settings_for
from convsvc.dialects.mindspeed_llm.job import MindSpeedTarget
from convsvc.dialects.mindspeed_llm.tables import TABLES
from convsvc.errors import LayoutError, SourceError
from convsvc.families import FAMILIES, Facts, find_family
from convsvc.models.family import Wanted
from convsvc.models.model import Model
from tests.families.latent_models import CONFIGS


def build(family: str, wanted: Wanted | None = None, **changes: Any) -> Model:
    return FAMILIES[family].build(Facts({**CONFIGS[family], **changes}, "config.json"), wanted)


def target(**layout: Any) -> MindSpeedTarget:
    return MindSpeedTarget(format="mindspeed-llm", path="/out", **layout)


def names_of(model: Model, **layout: Any) -> dict[str, tuple[int, ...]]:
    """Names, without the chunk, and shapes of the first rank that holds them."""
    settings = settings_for(target(**layout), model)
    found = rank_files.layout(model, settings, TABLES)
    return {laid.name.partition("/")[2]: laid.shape for laid in reversed(found.kinds)}


@pytest.mark.parametrize("family", CONFIGS)
def test_a_configuration_shows_exactly_its_own_family(family: str) -> None:
    assert find_family(None, Facts(CONFIGS[family], "config.json")).name == family


@pytest.mark.parametrize("family", CONFIGS)
def test_a_missing_rank_is_named(family: str) -> None:
    with pytest.raises(SourceError, match="does not say kv_lora_rank"):
        build(family, kv_lora_rank=None)


def test_kimi_k2_is_a_deepseek3_and_moonlight_one_without_a_query_rank() -> None:
    assert find_family(None, Facts({**CONFIGS["deepseek3"], "model_type": "kimi_k2"}, "config.json")).name == "deepseek3"
    names = [laid.name for laid in lay_model(build("deepseek3", q_lora_rank=None)).kinds]
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert not [name for name in names if "q_a_" in name or "q_b_" in name]


def test_both_down_projections_share_one_matrix_that_every_tensor_rank_holds_whole() -> None:
    stored = names_of(build("deepseek2"), tensor_parallel_size=2)
    assert stored["decoder.layers.0.self_attention.linear_qkv.weight"] == (5 + 6 + 2, 16)
    assert stored["decoder.layers.0.self_attention.linear_q_up_proj.weight"] == (4 * 6 // 2, 5)
    assert stored["decoder.layers.0.self_attention.linear_kv_up_proj.weight"] == (4 * (4 + 8) // 2, 6)


def test_whole_queries_take_the_place_of_their_down_projection() -> None:
    stored = names_of(build("deepseek2-lite"), tensor_parallel_size=2)
    assert stored["decoder.layers.0.self_attention.linear_qkv.weight"] == (4 * 6 + 6 + 2, 16)
    assert "decoder.layers.0.self_attention.q_layernorm.weight" not in stored


def test_heads_that_tensor_ranks_cannot_share_are_refused_by_name() -> None:
    with pytest.raises(LayoutError, match="num_attention_heads has 4 elements"):
        names_of(build("plm"), tensor_parallel_size=3)


@pytest.mark.parametrize("family", ["plm", "deepseek2-lite"])
def test_mla_mm_split_without_a_query_rank_is_refused(family: str) -> None:
    with pytest.raises(LayoutError, match="q_lora_rank is not set"):
        settings_for(target(mla_mm_split=True), build(family))


def test_mla_mm_split_has_no_effect_where_training_never_splits() -> None:
    assert not settings_for(target(mla_mm_split=True), build("longcat")).mla_mm_split


def test_transformer_engine_with_mtp_layers_is_refused() -> None:
    with pytest.raises(LayoutError, match="mtp_num_layers 2"):
        settings_for(target(transformer_impl="transformer_engine"), build("deepseek3"))


def test_plm_has_no_gate() -> None:
    assert names_of(build("plm"))["decoder.layers.0.mlp.linear_fc1.weight"] == (12, 16)


def test_longcat_has_two_of_everything_but_experts_and_a_route_for_each_expert_without_weights() -> None:
    stored = names_of(build("longcat"))
    for half in (0, 1):
        assert stored[f"decoder.layers.3.self_attention_{half}.linear_qkv.weight"] == (13, 16)
        assert stored[f"decoder.layers.3.mlps_{half}.linear_fc1.weight"] == (16, 16)
        assert stored[f"decoder.layers.3.pre_mlp_layernorm_{half}.weight"] == (16,)
    assert stored["decoder.layers.3.mlp.router.weight"] == (4 + 2, 16)
    assert not [name for name in stored if "self_attention." in name or "layers.4" in name]


def test_longcat_counts_double_layers_whatever_num_hidden_layers_says() -> None:
    assert build("longcat", num_hidden_layers=8).num_layers == 4


def test_longcat_has_no_mtp_layer_to_convert() -> None:
    with pytest.raises(SourceError, match="longcat has no MTP layers"):
        build("longcat", Wanted(num_mtp=1))


def test_more_mtp_layers_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(SourceError, match="mtp_num_layers is 3; the model has 2"):
        build("deepseek3", Wanted(num_mtp=3))


def indexed(model: Model) -> list[bool]:
    return [INDEX_KEY.name in scope.logicals for scope in model.scopes if scope.kind in ("layer", "mtp_block")]


def test_glm5_layers_share_indexers_as_the_configuration_says_and_its_mtp_layer_has_one() -> None:
    assert indexed(build("glm5")) == [True, True, False, True, True]
    assert indexed(build("deepseek32")) == [True] * 5


@pytest.mark.parametrize(
    ("fields", "own"),
    [
        ({}, [True, True, True, True]),
        ({"index_topk_pattern": "FSSF"}, [True, False, False, True]),
        ({"index_topk_freq": 2}, [True, True, False, True]),
        ({"index_topk_freq": 3, "index_skip_topk_offset": 1}, [True, False, False, True]),
    ],
)
def test_a_schedule_of_indexers_is_read_as_transformers_reads_it(fields: dict[str, Any], own: list[bool]) -> None:
    from transformers import GlmMoeDsaConfig

    is_indexed = indexed_layers(Facts({"num_hidden_layers": 4, **fields}, "config.json"))
    assert [is_indexed(layer) for layer in range(4)] == own
    assert ["full" if each else "shared" for each in own] == GlmMoeDsaConfig(num_hidden_layers=4, **fields).indexer_types


def test_reduced_models_keep_the_kinds_of_the_layers_they_keep() -> None:
    model = build("glm5", Wanted(num_layers=3, first_dense=1, num_mtp=1), first_k_dense_replace=2)
    assert model.kept == (0, 2, 3)
    assert indexed(model) == [True, False, True, True]
    settings = settings_for(target(), model)
    from convsvc.dialects.mcore.saved_args import compose_args

    args = vars(compose_args(model, settings, Facts({**CONFIGS["glm5"], "first_k_dense_replace": 2}, "config.json")))
    assert (args["num_layers"], args["first_k_dense_replace"]) == (3, 1)
    assert args["indexer_types"] == ["full", "shared", "full"]
    again = FAMILIES["glm5"].build(Facts(args, "args"), Wanted(num_mtp=1))
    assert [scope.rows for scope in again.layers()] == [scope.rows for scope in model.layers()]


def test_what_training_saves_under_megatrons_names_alone_is_enough() -> None:
    trained = {
        "num_layers": 4, "hidden_size": 16, "num_attention_heads": 4, "ffn_hidden_size": 8, "vocab_size": 24, "num_experts": 4,
        "moe_ffn_hidden_size": 4, "moe_shared_expert_intermediate_size": 8, "moe_layer_freq": [0, 1, 1, 1], "q_lora_rank": 5,
        "kv_lora_rank": 6, "qk_head_dim": 4, "qk_pos_emb_head_dim": 2, "v_head_dim": 8, "untie_embeddings_and_output_weights": True,
    }  # fmt: skip
    have = FAMILIES["deepseek3"].build(Facts(trained, "args"), Wanted(num_mtp=2))
    want = build("deepseek3")
    assert set(lay_model(have).kinds) == set(lay_model(want).kinds)
