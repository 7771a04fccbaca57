"""Families whose layers are of several kinds: how they are found, what their layers hold, how they are cut, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.blocks.linear_attention import full_attention_layers
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.mcore import rank_files
from convsvc.dialects.mcore.settings import settings_for
from convsvc.dialects.mindspeed_llm.job import MindSpeedTarget
from convsvc.dialects.mindspeed_llm.tables import TABLES
from convsvc.errors import JobError, LayoutError, SourceError
from convsvc.families import FAMILIES, Facts, find_family
from convsvc.models.family import Wanted
from convsvc.models.model import Model
from tests.families.hybrid_models import CONFIGS, STATE_SPACES


def build(family: str, wanted: Wanted | None = None, **changes: Any) -> Model:
    return FAMILIES[family].build(Facts({**CONFIGS[family], **changes}, "config.json"), wanted)


def target(**layout: Any) -> MindSpeedTarget:
    return MindSpeedTarget(format="mindspeed-llm", path="/out", **layout)


def names_of(model: Model, **layout: Any) -> dict[str, tuple[int, ...]]:
    """Names, without the chunk, and shapes of the first rank that holds them."""
    found = rank_files.layout(model, settings_for(target(**layout), model), TABLES)
    return {laid.name.partition("/")[2]: laid.shape for laid in reversed(found.kinds)}


@pytest.mark.parametrize("family", CONFIGS)
def test_a_configuration_shows_exactly_its_own_family(family: str) -> None:
    assert find_family(None, Facts(CONFIGS[family], "config.json")).name == family


def test_a_state_spaces_configuration_is_shown_by_its_fields() -> None:
    assert find_family(None, Facts(STATE_SPACES, "config.json")).name == "mamba2"
    with pytest.raises(JobError, match="shows no known model family"):
        find_family(None, Facts({**STATE_SPACES, "ssm_cfg": {"layer": "Mamba1"}}, "config.json"))


def test_every_fourth_layer_and_mtp_layers_have_attention_of_the_usual_kind() -> None:
    is_full = full_attention_layers(Facts(CONFIGS["qwen3-next"], "config.json"))
    assert [is_full(layer) for layer in range(5)] == [False, False, False, True, True]


def test_layer_types_say_more_than_the_interval() -> None:
    kinds = ["full_attention", "linear_attention", "linear_attention", "linear_attention"]
    model = build("qwen3-next", layer_types=kinds)
    stored = names_of(model)
    assert "decoder.layers.0.self_attention.q_proj.weight" in stored
    assert "decoder.layers.3.self_attention.in_proj_qkvz.weight" in stored


def test_an_mtp_layer_of_a_reduced_model_keeps_its_attention() -> None:
    stored = names_of(build("qwen3-next", Wanted(num_layers=2, num_mtp=1)))
    assert stored["mtp.layers.0.transformer_layer.self_attention.q_proj.weight"] == (2 * 2 * 2 * 4, 8)


def test_a_tensor_rank_holds_a_smaller_delta_net() -> None:
    stored = names_of(build("qwen3-next"), tensor_parallel_size=2)
    prefix = "decoder.layers.0.self_attention."
    assert stored[prefix + "in_proj_qkvz.weight"] == (2 + 2 + 3 * 3 + 3 * 3, 8)
    assert stored[prefix + "conv1d.weight"] == (2 + 2 + 3 * 3, 1, 4)
    assert stored[prefix + "A_log"] == (3,)
    assert stored[prefix + "norm.weight"] == (3,)


def test_more_tensor_ranks_than_key_heads_are_refused_by_name() -> None:
    with pytest.raises(LayoutError, match="linear_num_key_heads has 2 elements"):
        names_of(build("qwen3-next", num_key_value_heads=4), tensor_parallel_size=4)


def test_value_heads_that_key_heads_cannot_share_are_refused() -> None:
    with pytest.raises(SourceError, match="5 value heads cannot share 2 key heads"):
        build("qwen3-next", linear_num_value_heads=5)


def test_qwen3_next_has_names_for_one_mtp_layer() -> None:
    with pytest.raises(SourceError, match="names for one MTP layer only"):
        build("qwen3-next", Wanted(num_mtp=2))


def test_every_part_of_a_mixers_projection_is_cut_for_itself() -> None:
    model = build("mamba2")
    layout = rank_files.layout(model, settings_for(target(tensor_parallel_size=2), model), TABLES)
    there = [layout.kinds[entry.kind] for entry in layout.entries if "mp_rank_01" in entry.file]
    second = [laid for laid in there if laid.name.endswith("layers.0.mixer.in_proj.weight")]
    assert second[0].shape == (8 + 8 + 3 + 3 + 2, 8)
    assert [(block.tensor.name.rpartition(".")[2], block.starts[0], block.stops[0]) for block in second[0].blocks] == [
        (part, 1, 2) for part in ("gate", "value", "write", "read", "step")
    ]


def test_mamba2_groups_that_tensor_ranks_cannot_share_are_refused_by_name() -> None:
    with pytest.raises(LayoutError, match="n_groups has 2 elements"):
        names_of(build("mamba2", vocab_size=12), tensor_parallel_size=3)


def test_a_bias_that_megatron_s_mixer_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(LayoutError, match=r"no place for mixer\.out_proj\.bias of mamba2"):
        names_of(build("mamba2", use_bias=True))


def test_a_state_spaces_configuration_takes_mamba_ssm_s_defaults_and_pads_its_vocabulary() -> None:
    model = FAMILIES["mamba2"].build(Facts({**STATE_SPACES, "d_model": 64}, "config.json"))
    assert (model.sizes["state"], model.sizes["mamba_group"], model.sizes["mamba_head"], model.sizes["vocab"]) == (128, 1, 2, 16)


def test_what_the_job_states_comes_before_mamba_ssm_s_defaults() -> None:
    facts = Facts(STATE_SPACES, "config.json").stating({"mamba_state_dim": 3, "mamba_num_groups": 2, "mamba_head_dim": 4})
    assert FAMILIES["mamba2"].build(facts).sizes["state"] == 3


def test_what_the_job_states_must_agree_under_any_name() -> None:
    with pytest.raises(JobError, match="contradicts config") as caught:
        Facts(CONFIGS["mamba2"], "config.json").stating({"hidden_size": 8, "mamba_state_dim": 16, "mamba_head_dim": 4})
    assert caught.value.facts == ("source.architecture.mamba_state_dim: stated 16, config.json says 3",)


def test_args_of_training_which_know_megatron_s_names_only_give_the_same_mixer() -> None:
    trained = {"num_layers": 4, "hidden_size": 8, "mamba_state_dim": 3, "mamba_num_groups": 2, "mamba_head_dim": 4, "kv_channels": 2}
    model = FAMILIES["mamba2"].build(Facts(trained, "args"), Wanted(vocab=16))
    mine = build("mamba2")
    assert {**model.sizes} == {**mine.sizes}
    assert model.num_layers == mine.num_layers


def test_a_size_that_nobody_states_is_asked_for() -> None:
    with pytest.raises(SourceError, match="does not say mamba_state_dim or state_size") as caught:
        build("mamba2", state_size=None)
    assert caught.value.do == "state source.architecture.mamba_state_dim"


def test_a_ratio_says_whether_a_layer_has_a_compressor_and_four_that_it_has_an_indexer() -> None:
    stored = names_of(build("deepseek4", Wanted(num_mtp=1)))
    shape_of = {layer: stored.get(f"decoder.layers.{layer}.self_attention.compressor.ape") for layer in range(4)}
    assert shape_of == {0: None, 1: (4, 8), 2: (128, 4), 3: None}
    assert [layer for layer in range(4) if f"decoder.layers.{layer}.self_attention.indexer.wq_b.weight" in stored] == [1]
    assert "mtp.layers.0.transformer_layer.self_attention.compressor.ape" not in stored


def test_the_first_layers_choose_experts_by_token_and_have_no_bias() -> None:
    stored = names_of(build("deepseek4", Wanted(num_mtp=1)))
    assert stored["decoder.layers.0.mlp.router.tid2eid"] == (16, 2)
    assert "decoder.layers.0.mlp.router.expert_bias" not in stored
    assert stored["mtp.layers.0.transformer_layer.mlp.router.expert_bias"] == (4,)


def test_too_few_ratios_are_refused_with_both_numbers() -> None:
    with pytest.raises(SourceError, match=r"compress_ratios is \[0, 4\]; it must have a number for each of 4 layers"):
        build("deepseek4", compress_ratios=[0, 4])


LAYER_KINDS = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]


def test_transformers_lists_say_what_deepseek_s_numbers_say() -> None:
    config = {**CONFIGS["deepseek4"], "num_hidden_layers": 3, "compress_ratios": [0, 4, 128, 0], "num_hash_layers": 1}
    listed = {name: value for name, value in config.items() if name not in ("compress_ratios", "num_hash_layers")}
    listed |= {"layer_types": LAYER_KINDS, "mlp_layer_types": ["hash_moe", "moe", "moe"]}
    one, other = (FAMILIES["deepseek4"].build(Facts(each, "config.json")) for each in (config, listed))
    assert one.scopes == other.scopes


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        ({"layer_types": LAYER_KINDS, "compress_ratios": [0, 4, 4]}, r"compress_ratios is .*layer_types makes it \[0, 4, 128\]"),
        ({"layer_types": LAYER_KINDS, "compress_rates": {LAYER_KINDS[1]: 8}}, "it must be 4 for compressed_sparse_attention"),
        ({"layer_types": LAYER_KINDS, "compress_rates": {LAYER_KINDS[2]: "many"}}, "compress_rates is"),
        ({"layer_types": LAYER_KINDS, "compress_rates": 4}, "compress_rates is 4"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types has 'full_attention'; known are"),
        ({"mlp_layer_types": ["moe", "hash_moe", "moe"]}, "so many 'hash_moe', and then 'moe'"),
        ({"mlp_layer_types": ["hash_moe", "dense", "moe"]}, "so many 'hash_moe', and then 'moe'"),
        ({"mlp_layer_types": ["hash_moe", "hash_moe", "moe"]}, "num_hash_layers is 1, mlp_layer_types has 2 'hash_moe'"),
    ],
)
def test_transformers_lists_that_deepseek4_cannot_have_are_refused(stated: dict[str, object], complaint: str) -> None:
    config = {**CONFIGS["deepseek4"], "num_hidden_layers": 3, "num_hash_layers": 1, **stated}
    config["compress_ratios"] = stated.get("compress_ratios", None if "layer_types" in stated else [0, 4, 128])
    with pytest.raises(SourceError, match=complaint):
        FAMILIES["deepseek4"].build(Facts(config, "config.json"))


def test_dualpipev_beside_virtual_stages_is_refused_for_deepseek4_only() -> None:
    layout = {"pipeline_parallel_size": 2, "schedules_method": "dualpipev", "num_layers_per_virtual_pipeline_stage": 1}
    assert names_of(build("qwen3-next"), **layout)
    with pytest.raises(LayoutError, match="cannot be set together for deepseek4"):
        names_of(build("deepseek4"), **layout)


def test_a_base_model_s_copies_are_expected_of_deepseek4_base_only() -> None:
    for family, has in (("deepseek4", False), ("deepseek4_base", True)):
        model = FAMILIES[family].build(Facts(CONFIGS["deepseek4"], "config.json"))
        written = {laid.name for laid in lay_model(model).kinds if laid.written}
        assert ({"mtp.0.emb.tok_emb.weight", "mtp.0.head.weight"} <= written) is has


def test_where_every_layer_has_experts_no_width_of_dense_ones_is_asked_for() -> None:
    config = {name: value for name, value in CONFIGS["qwen3-next"].items() if name != "intermediate_size"}
    model = FAMILIES["qwen3.5-moe"].build(Facts({**config, "model_type": "qwen3_5_moe_text"}, "config.json"), None)
    assert any("experts" in row.stored for scope in model.scopes for row in scope.rows)
