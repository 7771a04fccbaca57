"""A name alone claims nothing: which of a checkpoint's layers are MTP layers, and what is carried as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import PlanError
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from tests.families.latent_models import CONFIGS, Tensors, differences, to_huggingface, to_megatron, write_model


def change(directory: Path, changes: dict[str, Any], without: tuple[str, ...] = ()) -> Tensors:
    """Changes config.json (None: the field goes), and leaves out the tensors that begin with `without`."""
    values = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    tensors = {name: each for name, each in load_file(directory / "model.safetensors").items() if not name.startswith(without or ("-",))}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return tensors


def plan(source: Path, target: str = "mindspeed-llm", **layout: Any) -> Plan:
    return make_plan(
        {
            "source": {"format": "huggingface", "path": str(source)},
            "target": {"format": target, "path": str(source.parent / f"to-{target}"), **layout},
            "options": {"verify": "none"},
        }
    )


@pytest.mark.parametrize("layout", [{}, {"mtp_num_layers": 0}, {"mtp_num_layers": 2}])
def test_a_hidden_layer_that_the_configuration_forgets_is_no_mtp_layer(layout: dict[str, Any], tmp_path: Path) -> None:
    """4 layers and 2 MTP layers are stored; the configuration says 3: the last layer bears the number of the first MTP layer."""
    write_model("deepseek3", tmp_path / "hf")
    change(tmp_path / "hf", {"num_hidden_layers": 3})
    with pytest.raises(PlanError) as caught:
        plan(tmp_path / "hf", **layout)
    assert "model.layers.5.eh_proj.weight" in str(caught.value)


def test_a_forgotten_layer_is_found_though_the_mtp_layer_that_is_counted_is_not_stored(tmp_path: Path) -> None:
    write_model("deepseek3", tmp_path / "hf")
    change(tmp_path / "hf", {"num_hidden_layers": 3, "num_nextn_predict_layers": 1}, without=("model.layers.4.", "model.layers.5."))
    with pytest.raises(PlanError) as caught:
        plan(tmp_path / "hf")
    assert "missing   model.layers.3.eh_proj.weight" in str(caught.value)


@pytest.mark.parametrize("stored", [(), ("model.layers.5.",)])
def test_where_the_configuration_is_silent_layers_with_an_mtp_layers_own_tensors_are_carried(
    stored: tuple[str, ...], tmp_path: Path
) -> None:
    write_model("deepseek3", tmp_path / "hf")
    tensors = change(tmp_path / "hf", {"num_nextn_predict_layers": None}, without=stored)
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", tensor_parallel_size=2)
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))


def test_where_the_configuration_is_silent_a_further_hidden_layer_is_left_over(tmp_path: Path) -> None:
    write_model("deepseek3", tmp_path / "hf")
    change(
        tmp_path / "hf",
        {"num_nextn_predict_layers": None, "num_hidden_layers": 3},
        without=("model.layers.4.", "model.layers.5."),
    )
    with pytest.raises(PlanError) as caught:
        plan(tmp_path / "hf")
    assert "left over model.layers.3.input_layernorm.weight" in str(caught.value)


def test_an_mtp_layer_of_which_a_part_is_missing_is_not_carried_as_if_it_were_whole(tmp_path: Path) -> None:
    write_model("deepseek3", tmp_path / "hf")
    change(tmp_path / "hf", {}, without=("model.layers.5.mlp.gate.",))
    with pytest.raises(PlanError) as caught:
        plan(tmp_path / "hf")
    assert "missing   model.layers.5.mlp.gate.weight" in str(caught.value)


@pytest.mark.parametrize("target", ["huggingface", "mindspeed-llm"])
def test_mtp_layers_that_are_counted_and_not_stored_are_done_without_and_the_plan_says_so(target: str, tmp_path: Path) -> None:
    write_model("deepseek3", tmp_path / "hf")
    tensors = change(tmp_path / "hf", {}, without=("model.layers.4.", "model.layers.5."))
    made = plan(tmp_path / "hf", target)
    assert "counts 2 MTP layer(s) and none is stored" in " ".join(map(str, made.notes))
    assert sum(len(task.transfers) for task in made.tasks) > 0
    if target == "huggingface":
        assert {each.name for each in made.target_tensors} == set(tensors)


def test_a_model_without_its_mtp_layers_goes_there_and_back(tmp_path: Path) -> None:
    write_model("deepseek3", tmp_path / "hf")
    tensors = change(tmp_path / "hf", {}, without=("model.layers.4.", "model.layers.5."))
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", pipeline_parallel_size=2)
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))


@pytest.mark.parametrize(("name", "shape"), [("model.mtp.norm.weight", (17,)), ("model.mtp.layers.0.something.weight", (16,))])
def test_a_carried_tensor_has_a_known_name_and_the_shape_that_it_must_have(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensors = write_model("longcat", tmp_path / "hf")
    save_file(tensors | {name: torch.zeros(shape, dtype=torch.bfloat16)}, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(PlanError) as caught:
        plan(tmp_path / "hf")
    assert name in str(caught.value)


def test_what_is_carried_is_noted_as_carried(tmp_path: Path) -> None:
    write_model("longcat", tmp_path / "hf")
    assert CONFIGS["longcat"]["num_layers"] == 4
    assert [note.kind for note in plan(tmp_path / "hf").notes if "model.mtp." in note.text] == ["carried"]
    convert(
        {
            "source": {"format": "huggingface", "path": str(tmp_path / "hf")},
            "target": {"format": "mindspeed-llm", "path": str(tmp_path / "mg")},
            "options": {},
        },
        engine="inline",
    )
    assert set(load_file(tmp_path / "mg" / "iter_0000001" / "carried.safetensors")) == {
        "model.mtp.norm.weight",
        "model.mtp.layers.0.eh_proj.weight",
    }
