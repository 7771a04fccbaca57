"""`convsvc verify A B` of a torch_dist as training saves it and a Hugging Face directory that somebody else made from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import convsvc
from convsvc.cli.main import main
from convsvc.errors import ConvsvcError, JobError
from tests.dialects.dcp.made import in_safetensors
from tests.dialects.megatron.test_integrity import write_model
from tests.dialects.megatron.test_megatron import MLA, MOE, in_boxes, saved_again, without_words, written
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]
KINDS: dict[str, Callable[[Path], object]] = {
    "llama": write_llama,
    "qwen3-moe": lambda path: write_model(MOE, "qwen3-moe", path),
    "deepseek3": lambda path: write_model(MLA, "deepseek3", path),
}


def exported(hf: Path, target: Path, change: Callable[[Tensors], Any] = lambda tensors: None) -> Path:
    """As another exporter writes it: in two files of its own, with the configuration beside them."""
    tensors = in_safetensors(hf)
    change(tensors)
    target.mkdir()
    (target / "config.json").write_bytes((hf / "config.json").read_bytes())
    names = sorted(tensors)
    where = {name: f"model-{1 + at % 2:05d}-of-00002.safetensors" for at, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, target / file, metadata={"format": "pt"})
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return target


def trained(hf: Path, folder: Path) -> Path:
    """With padding, cut in boxes, with args as training saves them: they say neither family nor vocabulary."""

    def of_training(keys: Tensors) -> Tensors:
        return {name: tensor for name, tensor in keys.items() if not name.startswith("carried.")}

    ours = written(hf, folder / "ours", make_vocab_size_divisible_by=64)
    return without_words(saved_again(ours, folder / "trained", in_boxes, of_training))


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_that_lost_nothing_is_equal_whichever_comes_first(kind: str, tmp_path: Path) -> None:
    """What the saved args do not say is taken from the configuration of the other."""
    KINDS[kind](tmp_path / "hf")
    one, other = str(trained(tmp_path / "hf", tmp_path)), str(exported(tmp_path / "hf", tmp_path / "export"))
    for a, b in ((one, other), (other, one)):
        answer = convsvc.compare(a, b)
        assert answer["same"], answer
        assert answer["compared"] >= 15
        assert {answer["a"]["format"], answer["b"]["format"]} == {"megatron", "huggingface"}


def add_to_last(tensors: Tensors) -> None:
    tensors["model.layers.1.mlp.down_proj.weight"][-1, -1] += 1


def swap_gate_and_up(tensors: Tensors) -> None:
    for part in ("gate", "up"):
        tensors[f"model.layers.0.mlp.{part}_proj.weight"] = tensors[f"model.layers.0.mlp.{part}_proj.weight"].flip(0)


def transpose(tensors: Tensors) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    assert len(set(tensors[name].shape)) == 1
    tensors[name] = tensors[name].T.contiguous()


def lose_one(tensors: Tensors) -> None:
    del tensors["model.layers.1.input_layernorm.weight"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add_to_last, ["decoder.layers.1.mlp.linear_fc2.weight in 1 of", "first at"]),
        (swap_gate_and_up, ["decoder.layers.0.mlp.linear_fc1.weight in"]),
        (transpose, ["decoder.layers.0.self_attention.linear_qkv.weight in"]),
        (lose_one, ["model.layers.1.input_layernorm.weight"]),
    ],
)
def test_what_an_exporter_changed_or_lost_is_named(
    change: Callable[[Tensors], Any], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_llama(tmp_path / "hf")
    one, other = trained(tmp_path / "hf", tmp_path), exported(tmp_path / "hf", tmp_path / "export", change)
    assert main(["verify", str(one), str(other)]) != 0
    said = "".join(capsys.readouterr())
    assert all(each in said for each in named), said


def test_an_expert_in_the_place_of_another_is_named(tmp_path: Path) -> None:
    def swap(tensors: Tensors) -> None:
        names = [f"model.layers.1.mlp.experts.{expert}.down_proj.weight" for expert in (1, 2)]
        tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]

    KINDS["qwen3-moe"](tmp_path / "hf")
    answer = convsvc.compare(str(trained(tmp_path / "hf", tmp_path)), str(exported(tmp_path / "hf", tmp_path / "export", swap)))
    assert [each["name"] for each in answer["different"]] == ["decoder.layers.1.mlp.experts.linear_fc2.weight"]
    assert answer["different"][0]["first"][0] == 1, "the expert, where they begin to differ"


def test_a_configuration_of_another_model_is_no_help(tmp_path: Path) -> None:
    write_llama(tmp_path / "hf")
    write_llama(tmp_path / "larger", layers=4)
    with pytest.raises(ConvsvcError, match="not that of this checkpoint"):
        convsvc.compare(str(trained(tmp_path / "hf", tmp_path)), str(tmp_path / "larger"))


def test_two_that_say_nothing_cannot_help_each_other(tmp_path: Path) -> None:
    write_llama(tmp_path / "hf")
    one = str(trained(tmp_path / "hf", tmp_path))
    with pytest.raises(JobError, match="no known model family"):
        convsvc.compare(one, one)
