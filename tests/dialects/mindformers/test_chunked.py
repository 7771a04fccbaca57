"""Iterations with a metadata.json: every box is found, none is trusted, and nothing in it is evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.dialects.mindformers.chunked import parse_shard
from convsvc.errors import SourceError
from convsvc.plan.inspect import inspect_checkpoint
from tests.dialects.mindformers.made import Tensors, back, make_llama, rewrite, same, whole_tensors, write_iteration

STATED = {"architecture": {"num_attention_heads": 4}}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensors, Tensors]:
    """A small Llama: by mindformers' names, and by Hugging Face's."""
    folder, tensors = make_llama(tmp_path_factory.mktemp("llama"))
    return whole_tensors(folder), tensors


def change(folder: Path, edit: Any) -> None:
    said = json.loads((folder / "metadata.json").read_text())
    edit(said)
    (folder / "metadata.json").write_text(json.dumps(said))


def norm_file(said: dict[str, Any]) -> dict[str, Any]:
    """The first file that holds the last norm."""
    place: dict[str, Any] = said["storage_data"]["('decoder.final_layernorm.weight', (0,))"][0]
    return place


def refusal(root: Path, **stated: Any) -> str:
    with pytest.raises(SourceError) as caught:
        back(root, root.parent / "refused", **STATED, **stated)
    return str(caught.value)


@pytest.mark.parametrize(("redundant", "flag"), [(True, None), (False, "True")])
def test_boxes_of_all_ranks_make_the_model(tmp_path: Path, llama: tuple[Tensors, Tensors], redundant: bool, flag: str | None) -> None:
    write_iteration(tmp_path / "ckpt" / "iteration_00000010", llama[0], tp=2, dp=2, redundant=redundant, flag=flag)
    have, result = back(tmp_path / "ckpt", tmp_path / "out", **STATED)
    assert same(llama[1], have)
    assert any("4 file(s) of optimizer state, not weights" in note.text for note in result.notes)


def test_one_iteration_may_be_given_itself(tmp_path: Path, llama: tuple[Tensors, Tensors]) -> None:
    write_iteration(tmp_path / "iteration_00000010", llama[0])
    assert same(llama[1], back(tmp_path / "iteration_00000010", tmp_path / "out", **STATED)[0])


def test_the_tracker_decides_else_the_newest_and_the_job_above_both(tmp_path: Path, llama: tuple[Tensors, Tensors]) -> None:
    root = tmp_path / "ckpt"
    others = {name: tensor * 2 for name, tensor in llama[0].items()}
    write_iteration(root / "iteration_00000009", llama[0])
    write_iteration(root / "iteration_00000010", others)
    twice = {name: tensor * 2 for name, tensor in llama[1].items()}
    assert same(twice, back(root, tmp_path / "newest", **STATED)[0])
    for suffix in ("9", "iteration_00000009"):
        assert same(llama[1], back(root, tmp_path / suffix, file_suffix=suffix, **STATED)[0])
    (root / "latest_checkpointed_iteration.txt").write_text("9\n")
    have, result = back(root, tmp_path / "tracked", **STATED)
    assert same(llama[1], have)
    assert any("left out are later ones" in note.text and note.text.endswith("10") for note in result.notes)
    assert "has no iteration 11" in refusal(root, file_suffix="11")
    (root / "latest_checkpointed_iteration.txt").write_text("12")
    assert "names iteration 12, which is not there" in refusal(root)
    (root / "latest_checkpointed_iteration.txt").write_text("release")
    assert "not the number of an iteration" in refusal(root)


def test_copies_that_differ_name_both_files(tmp_path: Path, llama: tuple[Tensors, Tensors]) -> None:
    folder = tmp_path / "iteration_00000010"
    write_iteration(folder, llama[0], tp=2, dp=2)
    norm = llama[0]["decoder.final_layernorm.weight"].clone()
    norm[3] += 1
    rewrite(folder / "llama-model-0000002-0000004.safetensors", {"decoder.final_layernorm.weight": norm})
    with pytest.raises(Exception, match="differ") as caught:
        back(folder, tmp_path / "out", **STATED)
    assert "decoder.final_layernorm.weight" in str(caught.value)
    assert "llama-model-0000002-0000004.safetensors" in str(caught.value)


def test_a_missing_file_is_made_up_for_by_its_replica_or_is_an_error_that_names_box_and_file(
    tmp_path: Path, llama: tuple[Tensors, Tensors]
) -> None:
    folder = tmp_path / "iteration_00000010"
    write_iteration(folder, llama[0], tp=2, dp=2)
    (folder / "llama-model-0000003-0000004.safetensors").unlink()
    have, result = back(folder, tmp_path / "out", **STATED)
    assert same(llama[1], have)
    assert any("1 file(s) of ranks are not there; all they hold is in others" in note.text for note in result.notes)
    (folder / "llama-model-0000001-0000004.safetensors").unlink()
    said = refusal(folder)
    assert "are in no file" in said
    assert "llama-model-0000001-0000004.safetensors or llama-model-0000003-0000004.safetensors should have it" in said


def test_a_file_that_lacks_what_its_rank_has_was_cut_short_unless_redundancy_was_removed(
    tmp_path: Path, llama: tuple[Tensors, Tensors]
) -> None:
    folder = tmp_path / "iteration_00000010"
    write_iteration(folder, llama[0], tp=2, dp=2)
    file = folder / "llama-model-0000002-0000004.safetensors"
    rewrite(file, {"decoder.final_layernorm.weight": None})
    assert f"decoder.final_layernorm.weight[0:16] is not in {file.name}" in refusal(folder)
    assert same(llama[1], back(folder, tmp_path / "stated", has_redundancy=False, **STATED)[0])
    rewrite(file, {}, {"format": "ms", "remove_redundancy": "True"})
    assert same(llama[1], back(folder, tmp_path / "said", **STATED)[0])


def test_a_box_of_another_shape_than_its_tensor_is_an_error(tmp_path: Path, llama: tuple[Tensors, Tensors]) -> None:
    folder = tmp_path / "iteration_00000010"
    write_iteration(folder, llama[0])
    rewrite(folder / "llama-model-0000000-0000002.safetensors", {"decoder.final_layernorm.weight": torch.zeros(8, dtype=torch.bfloat16)})
    assert "decoder.final_layernorm.weight[0:16] is [16] in metadata.json, [8] in llama-model-0000000-0000002.safetensors" in refusal(
        folder
    )


def test_boxes_that_leave_a_part_out_are_an_error(tmp_path: Path, llama: tuple[Tensors, Tensors]) -> None:
    folder = tmp_path / "iteration_00000010"
    write_iteration(folder, llama[0])
    change(folder, lambda said: said["state_dict_metadata"]["output_layer.weight"]["chunk"].pop())
    assert "output_layer.weight: 512 of 1024 elements are in a box" in refusal(folder)


BAD: dict[str, Any] = {
    "a key that is code": lambda said: said["storage_data"].update({"__import__('os').abort()": []}),
    "a file elsewhere": lambda said: norm_file(said).update(file_name="../x-model-0000000-0000001.safetensors"),
    "a file that is no rank's": lambda said: norm_file(said).update(file_name="config.json"),
    "no list of files": lambda said: said["storage_data"].update({"('w', (0,))": {}}),
    "a box beyond the tensor": lambda said: said["state_dict_metadata"]["output_layer.weight"].update(global_shape=[8, 16]),
    "a negative offset": lambda said: said["state_dict_metadata"]["output_layer.weight"]["chunk"][0].update(global_offset=[-1, 0]),
    "a size that is true": lambda said: said["state_dict_metadata"]["output_layer.weight"].update(global_shape=[True, 16]),
    "a size that is text": lambda said: said["state_dict_metadata"]["output_layer.weight"].update(global_shape="64"),
    "no boxes": lambda said: said["state_dict_metadata"]["output_layer.weight"].update(chunk=[]),
    "a box that is none": lambda said: said["state_dict_metadata"]["output_layer.weight"].update(chunk=[7]),
    "no storage": lambda said: said.pop("storage_data"),
    "tensors in a list": lambda said: said.update(state_dict_metadata=[]),
}  # fmt: skip


@pytest.mark.parametrize("edit", BAD.values(), ids=BAD)
def test_metadata_that_is_damaged_is_refused_by_field(tmp_path: Path, llama: tuple[Tensors, Tensors], edit: Any) -> None:
    folder = tmp_path / "iteration_00000010"
    write_iteration(folder, llama[0])
    change(folder, edit)
    assert "is no metadata of MindSpore Transformers" in refusal(folder)


@pytest.mark.parametrize(
    "text",
    [
        "('w', (0,)) ",
        "('w', (0, -1))",
        "('w', (0x1,))",
        "('w', [0])",
        "('w')",
        "('a\\'b', (0,))",
        "('w', (0,), 1)",
        "(w, (0,))",
        "('w', (0 ,))",
    ],
)
def test_only_a_name_and_whole_numbers_are_a_key(text: str) -> None:
    assert parse_shard(text) is None


def test_names_with_quotes_are_read_as_python_writes_them() -> None:
    for name in ("w", "a b", "it's", 'say "x"', "a,(b"):
        assert parse_shard(str((name, (0, 12)))) == (name, (0, 12))


def test_it_is_recognised_and_megatrons_metadata_is_not(tmp_path: Path, llama: tuple[Tensors, Tensors]) -> None:
    write_iteration(tmp_path / "ckpt" / "iteration_00000010", llama[0])
    (tmp_path / "ckpt" / "latest_checkpointed_iteration.txt").write_text("10")
    for folder in (tmp_path / "ckpt", tmp_path / "ckpt" / "iteration_00000010"):
        assert inspect_checkpoint(str(folder))["format"] == "mindformers"
    megatron = tmp_path / "torch_dist"
    megatron.mkdir()
    (megatron / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))
    (megatron / "common.pt").write_bytes(b"PK")
    (megatron / "__0_0.distcp").write_bytes(b"PK")
    with pytest.raises(SourceError, match="Megatron distributed checkpoint"):
        inspect_checkpoint(str(megatron))
