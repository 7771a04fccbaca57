"""Latent attention through real files: any layout, and back, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.families.latent_models import CONFIGS, differences, to_huggingface, to_megatron, write_model
from tests.golden.outputs import load_rank_file

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plm": ({"tensor_parallel_size": 4}, {"pipeline_parallel_size": 2, "schedules_method": "dualpipev"}),
    "deepseek2": (
        {"tensor_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True, "mla_mm_split": True},
        {"pipeline_parallel_size": 2, "expert_parallel_size": 4, "transformer_impl": "transformer_engine"},
    ),
    "deepseek2-lite": (
        {"tensor_parallel_size": 2, "moe_grouped_gemm": True, "moe_tp_extend_ep": True, "expert_parallel_size": 2},
        {"pipeline_parallel_size": 3, "noop_layers": [0, 5]},
    ),
    "deepseek3": (
        {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "mtp_num_layers": 2, "mla_mm_split": True, "moe_grouped_gemm": True},
        {"expert_parallel_size": 2, "mtp_num_layers": 2},
    ),
    "deepseek32": (
        {"mtp_num_layers": 1, "tensor_parallel_size": 4},
        {"pipeline_parallel_size": 2, "schedules_method": "dualpipev", "mtp_num_layers": 1, "mla_mm_split": True},
    ),
    "glm5": (
        {"pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1, "mtp_num_layers": 1},
        {"tensor_parallel_size": 2, "mtp_num_layers": 1, "moe_grouped_gemm": True},
    ),
    "longcat": (
        {"tensor_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True, "moe_tp_extend_ep": True},
        {"pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1},
    ),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_there_through_two_layouts_and_back_is_the_identity(family: str, tmp_path: Path) -> None:
    tensors = write_model(family, tmp_path / "hf")
    first, second = LAYOUTS[family]
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "first", **first, options={"verify": "roundtrip"})
    to_megatron(tmp_path / "first", "mindspeed-llm", tmp_path / "second", **second, options={"verify": "roundtrip"})
    assert not differences(tensors, to_huggingface(tmp_path / "first", tmp_path / "once"))
    assert not differences(tensors, to_huggingface(tmp_path / "second", tmp_path / "twice"))


def test_the_split_matrices_hold_every_heads_part_without_and_with_position(tmp_path: Path) -> None:
    tensors = write_model("deepseek2", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", mla_mm_split=True)
    stored = load_rank_file(tmp_path / "mg" / "iter_0000001" / "mp_rank_00" / "model_optim_rng.pt")["model"]
    prefix = "decoder.layers.1.self_attention.linear_"
    queries = tensors["model.layers.1.self_attn.q_b_proj.weight"].reshape(4, 6, 5)
    keys_values = tensors["model.layers.1.self_attn.kv_b_proj.weight"].reshape(4, 12, 6)
    assert torch.equal(stored[prefix + "qk_nope.weight"], queries[:, :4].reshape(-1, 5))
    assert torch.equal(stored[prefix + "qk_rope.weight"], queries[:, 4:].reshape(-1, 5))
    assert torch.equal(stored[prefix + "kv_nope.weight"], keys_values[:, :4].reshape(-1, 6))
    assert torch.equal(stored[prefix + "v.weight"], keys_values[:, 4:].reshape(-1, 6))
    down = torch.cat([tensors[f"model.layers.1.self_attn.{name}.weight"] for name in ("q_a_proj", "kv_a_proj_with_mqa")])
    assert torch.equal(stored[prefix + "qkv.weight"], down)


def test_mtp_layers_keep_their_order(tmp_path: Path) -> None:
    tensors = write_model("deepseek3", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", mtp_num_layers=2)
    stored = load_rank_file(tmp_path / "mg" / "iter_0000001" / "mp_rank_00" / "model_optim_rng.pt")["model"]
    for number in (0, 1):
        assert torch.equal(stored[f"mtp.layers.{number}.eh_proj.weight"], tensors[f"model.layers.{4 + number}.eh_proj.weight"])


def test_an_mtp_layers_own_embedding_and_head_are_carried_where_training_has_no_place_for_them(tmp_path: Path) -> None:
    tensors = write_model("deepseek3", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", mtp_num_layers=1, pipeline_parallel_size=2)
    carried = load_file(tmp_path / "mg" / "iter_0000001" / "carried.safetensors")
    assert torch.equal(carried.pop("mtp.layers.0.output_layer.weight"), tensors["model.layers.4.shared_head.head.weight"])
    assert not carried
    last = load_rank_file(tmp_path / "mg" / "iter_0000001" / "mp_rank_00_001" / "model_optim_rng.pt")["model"]
    assert torch.equal(last["embedding.word_embeddings.weight"], tensors["model.layers.4.embed_tokens.weight"])


@pytest.mark.parametrize("family", ["longcat", "deepseek2"])
@pytest.mark.parametrize("grouped", [False, True])
def test_transformer_engines_names_come_back_with_nothing_stated(family: str, grouped: bool, tmp_path: Path) -> None:
    tensors = write_model(family, tmp_path / "hf")
    layout = {"transformer_impl": "transformer_engine", "moe_grouped_gemm": grouped}
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", **layout)
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))


def test_a_head_that_is_carried_no_more_comes_back_as_the_models(tmp_path: Path) -> None:
    tensors = write_model("deepseek3", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", mtp_num_layers=2, pipeline_parallel_size=2)
    (tmp_path / "mg" / "iter_0000001" / "carried.safetensors").unlink()
    back = to_huggingface(tmp_path / "mg", tmp_path / "back")
    assert set(back) == set(tensors)
    assert torch.equal(back["model.layers.4.shared_head.head.weight"], tensors["lm_head.weight"])


def test_a_family_without_copies_writes_no_file_beside_its_ranks(tmp_path: Path) -> None:
    write_model("glm5", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", mtp_num_layers=1)
    assert [path.name for path in (tmp_path / "mg" / "iter_0000001").iterdir()] == ["mp_rank_00"]


def test_mtp_layers_that_are_not_asked_for_come_back_from_beside_the_ranks(tmp_path: Path) -> None:
    tensors = write_model("deepseek3", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", tensor_parallel_size=2)
    to_megatron(tmp_path / "mg", "mindspeed-llm", tmp_path / "again", pipeline_parallel_size=2)
    back = to_huggingface(tmp_path / "again", tmp_path / "back")
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_no_mtp_layers_means_none(tmp_path: Path) -> None:
    tensors = write_model("deepseek3", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", mtp_num_layers=0)
    back = to_huggingface(tmp_path / "mg", tmp_path / "back")
    assert set(tensors) - set(back) == {name for name in tensors if name.startswith(("model.layers.4.", "model.layers.5."))}


def test_a_value_width_that_the_args_have_wrong_is_seen_in_the_tensors(tmp_path: Path) -> None:
    from convsvc.dialects.mindspeed_llm.corrections import see_value_dim
    from convsvc.dialects.mindspeed_llm.job import MindSpeedSource
    from convsvc.dialects.mindspeed_llm.source import SOURCE
    from convsvc.roots import ANYWHERE

    write_model("plm", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", tensor_parallel_size=2)
    checkpoint = SOURCE.open(MindSpeedSource(format="mindspeed-llm", path=str(tmp_path / "mg")), ANYWHERE)
    args, notes = see_value_dim({**checkpoint.facts.values, "v_head_dim": 128}, checkpoint.found)
    assert args["v_head_dim"] == 8
    assert "say v_head_dim 128" in notes[0].text
    assert see_value_dim(checkpoint.facts.values, checkpoint.found) == (checkpoint.facts.values, ())


@pytest.mark.parametrize("family", CONFIGS)
def test_inspect_finds_both_forms_complete_with_and_without_mtp_layers(family: str, tmp_path: Path) -> None:
    from convsvc.plan.inspect import inspect_checkpoint

    write_model(family, tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "without", tensor_parallel_size=2)
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "with", **LAYOUTS[family][0])
    for folder in ("hf", "without", "with"):
        about = inspect_checkpoint(str(tmp_path / folder))
        assert about["complete"], about
        assert about["model_type"] == family
