"""Torch distributed checkpoints: what torch saves is read, cut anywhere; torch loads what is written; nothing is lost in silence."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.distributed.checkpoint import metadata as of

from convsvc.errors import ConvsvcError, JobError, SourceError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan
from tests.dialects.dcp.made import Piece, back, fsdp2, in_safetensors, numbered, run, same, whole, write_dcp
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def llama(tmp_path: Path) -> tuple[Path, Tensors]:
    """A Llama as a Hugging Face directory, and its tensors."""
    write_llama(tmp_path / "hf")
    return tmp_path / "hf", in_safetensors(tmp_path / "hf")


def beside(folder: Path, hf: Path) -> Path:
    """`folder`, with the configuration."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes((hf / "config.json").read_bytes())
    return folder


def save_with_torch(state: Mapping[str, Any], folder: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        dcp.save(dict(state), storage_writer=dcp.FileSystemWriter(folder), no_dist=True)


def load_with_torch(folder: Path, like: Mapping[str, torch.Tensor]) -> Tensors:
    state = {name: torch.full_like(tensor, 7) for name, tensor in like.items()}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return state


@pytest.mark.parametrize("nested", [False, True])
def test_what_torch_saves_becomes_hugging_face(tmp_path: Path, llama: tuple[Path, Tensors], nested: bool) -> None:
    hf, tensors = llama
    state = {name: {"exp_avg": torch.rand(2), "step": torch.tensor(3.0)} for name in tensors}
    training = {"model": tensors, "optim": {"state": state, "param_groups": [{"lr": 0.1}]}, "train_state": {"step": 3}}
    save_with_torch(training if nested else tensors, tmp_path / "dcp")
    have, notes = back(beside(tmp_path / "dcp", hf), tmp_path / "back")
    assert same(tensors, have)
    assert any("what training keeps beside the weights" in note for note in notes) == nested
    assert any("objects, no tensors" in note for note in notes) == nested
    assert any("stored with 'model.' in front" in note for note in notes) == nested


@st.composite
def anywhere(draw: st.DrawFn) -> Callable[[str, tuple[int, ...]], list[Piece]]:
    """Each tensor's dimensions cut at places of their own, the pieces in any of three files."""
    places: dict[tuple[str, int], list[int]] = {}

    def cut(name: str, shape: tuple[int, ...]) -> list[Piece]:
        boxes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
        for axis, size in enumerate(shape):
            at = places.setdefault((name, axis), sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}))
            boxes = [((*a, low), (*b, high)) for a, b in boxes for low, high in pairwise(at)]
        return [(f"__{draw(st.integers(0, 2))}_0.distcp", *box) for box in draw(st.permutations(boxes))]

    return cut


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(cut=anywhere(), prefix=st.sampled_from(("", "model.", "module.", "app.model.")))
def test_any_cut_becomes_hugging_face(tmp_path_factory: pytest.TempPathFactory, cut: Any, prefix: str) -> None:
    root = tmp_path_factory.mktemp("any")
    hf = write_llama(root / "hf")
    tensors = in_safetensors(hf)
    write_dcp(beside(root / "dcp", hf), tensors, cut, prefix)
    assert same(tensors, back(root / "dcp", root / "back")[0])


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_torch_loads_what_is_written(tmp_path: Path, llama: tuple[Path, Tensors], shards: int) -> None:
    hf, tensors = llama
    target = {"format": "dcp", "path": str(tmp_path / "dcp"), "shards": shards, "prefix": "model"}
    run({"format": "huggingface", "path": str(hf)}, target)
    assert len(list((tmp_path / "dcp").glob("*.distcp"))) == (shards if shards > 1 else 2)  # two layers
    loaded = load_with_torch(tmp_path / "dcp", {f"model.{name}": tensor for name, tensor in tensors.items()})
    assert same({f"model.{name}": tensor for name, tensor in tensors.items()}, loaded)
    assert same(tensors, back(tmp_path / "dcp", tmp_path / "back")[0])


def test_torch_finds_the_nested_state_that_the_prefix_says(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    hf, tensors = llama
    run({"format": "huggingface", "path": str(hf)}, {"format": "dcp", "path": str(tmp_path / "dcp"), "prefix": "model."})
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with warnings.catch_warnings(action="ignore"):
        dcp_to_torch_save(tmp_path / "dcp", tmp_path / "one.pt")
    assert same(tensors, torch.load(tmp_path / "one.pt")["model"])


def test_shards_are_those_that_fsdp2_has(tmp_path: Path) -> None:
    tensors = numbered({"a": (5, 2), "b": (1,), "c": (8, 3)})
    write_dcp(tmp_path / "in", tensors)
    run({"format": "dcp", "path": str(tmp_path / "in")}, {"format": "dcp", "path": str(tmp_path / "out"), "shards": 4}, "tensors")
    have = dcp.FileSystemReader(tmp_path / "out").read_metadata()
    for name, tensor in tensors.items():
        pieces = fsdp2(4)(name, tuple(tensor.shape))
        said: Any = have.state_dict_metadata[name]
        assert [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in said.chunks] == [
            (starts, tuple(b - a for a, b in zip(starts, stops, strict=True))) for _, starts, stops in pieces
        ]
        files = [have.storage_data[of.MetadataIndex(name, starts)].relative_path for _, starts, _ in pieces]
        assert files == [file for file, _, _ in pieces]


def test_files_are_as_large_as_the_job_says(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    target = {"format": "dcp", "path": str(tmp_path / "dcp")}
    run({"format": "huggingface", "path": str(llama[0])}, target, max_shard_size="3KB")
    assert len(list((tmp_path / "dcp").glob("__0_*.distcp"))) > 3
    assert same(llama[1], load_with_torch(tmp_path / "dcp", llama[1]))


def test_from_fsdp2_to_rank_files_and_back(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    hf, tensors = llama
    write_dcp(beside(tmp_path / "dcp", hf), tensors, fsdp2(3), "model.")
    ranks = {"format": "mindspeed-llm", "path": str(tmp_path / "mg"), "tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    run({"format": "dcp", "path": str(tmp_path / "dcp")}, ranks, verify="roundtrip")
    target = {"format": "dcp", "path": str(tmp_path / "out"), "shards": 2, "config_dir": str(hf)}
    run({"format": "mindspeed-llm", "path": str(tmp_path / "mg")}, target, verify="roundtrip")
    assert same(tensors, load_with_torch(tmp_path / "out", tensors))


def test_tensors_of_no_model_go_there_and_back_with_what_training_keeps(tmp_path: Path) -> None:
    tensors = numbered({"a.b": (5, 2), "state.a.b.exp_avg": (5, 2), "s": (), "none": (0, 3)})
    write_dcp(tmp_path / "in", tensors, lambda name, shape: fsdp2(2)(name, shape) if name == "a.b" else whole(name, shape))
    source = {"format": "dcp", "path": str(tmp_path / "in"), "with_training_state": True}
    run(source, {"format": "dcp", "path": str(tmp_path / "out"), "prefix": "x."}, "tensors")
    loaded = load_with_torch(tmp_path / "out", {f"x.{name}": tensor for name, tensor in tensors.items()})
    assert same({f"x.{name}": tensor for name, tensor in tensors.items()}, loaded)


def test_inspecting_knows_the_format_and_the_model(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    write_dcp(beside(tmp_path / "dcp", llama[0]), llama[1], fsdp2(2), "model.")
    about = inspect_checkpoint(str(tmp_path / "dcp"))
    assert (about["format"], about["model_type"], about["complete"], about["files"]) == ("dcp", "llama2", True, 2)


def test_a_directory_within_is_found_and_the_configuration_above_it(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    write_dcp(beside(tmp_path / "run", llama[0]) / "release", llama[1])
    assert same(llama[1], back(tmp_path / "run", tmp_path / "back")[0])


# -- safetensors that torch has sharded


def shard(folder: Path, number: int, pieces: Mapping[str, tuple[torch.Tensor, list[int]]], info: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    said = {"DCP_SHARDING_INFO": json.dumps({name: {"saved_offsets": at} for name, (_, at) in pieces.items()})} if info else {}
    held = {name: tensor.contiguous() for name, (tensor, _) in pieces.items()}
    save_file(held, folder / f"shard-{number:05d}-model-00001-of-00001.safetensors", {"format": "pt", "DCP_VERSION": "1.0", **said})


def halves(tensors: Tensors) -> tuple[dict[str, tuple[torch.Tensor, list[int]]], dict[str, tuple[torch.Tensor, list[int]]]]:
    """Matrices cut in two, vectors on both ranks."""
    cut = {name: (each.shape[0] // 2 if each.ndim > 1 else 0) for name, each in tensors.items()}
    first = {name: (each[: cut[name]] if cut[name] else each, [0] * each.ndim) for name, each in tensors.items()}
    second = {name: (each[cut[name] :], [cut[name], *[0] * (each.ndim - 1)]) for name, each in tensors.items()}
    return first, second


def test_sharded_safetensors_become_hugging_face(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    for number, pieces in enumerate(halves(llama[1]), 1):
        shard(tmp_path / "dcp", number, pieces)
    assert same(llama[1], back(beside(tmp_path / "dcp", llama[0]), tmp_path / "back")[0])


def test_shards_are_as_torchs_writer_has_them(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    writer = dcp.HuggingFaceStorageWriter(str(tmp_path / "dcp"), save_distributed=True)
    with warnings.catch_warnings(action="ignore"):
        dcp.save(dict(llama[1]), storage_writer=writer, no_dist=True)
    assert same(llama[1], back(beside(tmp_path / "dcp", llama[0]), tmp_path / "back")[0])


def test_copies_in_shards_must_agree(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    first, second = halves(llama[1])
    second["model.norm.weight"] = (llama[1]["model.norm.weight"] + 1, [0])
    shard(tmp_path / "dcp", 1, first)
    shard(tmp_path / "dcp", 2, second)
    with pytest.raises(ConvsvcError, match="norm"):
        back(beside(tmp_path / "dcp", llama[0]), tmp_path / "back")


def test_a_shard_that_is_missing_is_named(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    shard(tmp_path / "dcp", 2, halves(llama[1])[1])
    with pytest.raises(SourceError, match="shards 1 of at least 2 are not there"):
        back(beside(tmp_path / "dcp", llama[0]), tmp_path / "back")


def test_a_last_shard_that_is_missing_shows_in_the_models_shapes(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    shard(tmp_path / "dcp", 1, halves(llama[1])[0])
    with pytest.raises(ConvsvcError, match="other shapes") as caught:
        back(beside(tmp_path / "dcp", llama[0]), tmp_path / "back")
    assert "model.embed_tokens.weight: expected [64, 16], found [32, 16]" in str(caught.value)


# -- what is wrong


def drop_chunk(metadata: of.Metadata) -> None:
    said: Any = metadata.state_dict_metadata["lm_head.weight"]
    gone = said.chunks.pop(1)
    del metadata.storage_data[of.MetadataIndex("lm_head.weight", gone.offsets)]


def drop_place(metadata: of.Metadata) -> None:
    del metadata.storage_data[of.MetadataIndex("lm_head.weight", (32, 0))]


def move_chunk(metadata: of.Metadata) -> None:
    said: Any = metadata.state_dict_metadata["lm_head.weight"]
    said.chunks[1].offsets = torch.Size([31, 0])
    metadata.storage_data[of.MetadataIndex("lm_head.weight", (31, 0))] = metadata.storage_data[of.MetadataIndex("lm_head.weight", (32, 0))]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_chunk, "lm_head.weight [32:64, 0:16] of [64, 16]: no chunk holds it"),
        (drop_place, "lm_head.weight [32:64, 0:16] of [64, 16]: .metadata has the chunk and does not say where it lies"),
        (move_chunk, "lm_head.weight [63:64, 0:16] of [64, 16]: no chunk holds it"),
    ],
)
def test_chunks_that_are_not_all_of_a_tensor_once_are_named(
    tmp_path: Path, llama: tuple[Path, Tensors], change: Callable[[of.Metadata], object], words: str
) -> None:
    write_dcp(beside(tmp_path / "dcp", llama[0]), llama[1], fsdp2(2), change=change)
    with pytest.raises(SourceError, match="1 tensors are not whole") as caught:
        back(tmp_path / "dcp", tmp_path / "back")
    assert words in str(caught.value)


def test_a_tensor_that_is_missing_and_one_that_is_left_over_are_named(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    tensors = {**llama[1], "model.extra.weight": torch.zeros(2)}
    del tensors["model.layers.1.mlp.up_proj.weight"]
    write_dcp(beside(tmp_path / "dcp", llama[0]), tensors, fsdp2(2))
    with pytest.raises(ConvsvcError) as caught:
        back(tmp_path / "dcp", tmp_path / "back")
    assert "model.layers.1.mlp.up_proj.weight" in str(caught.value)
    assert "model.extra.weight" in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    write_dcp(beside(tmp_path / "dcp", llama[0]), llama[1], fsdp2(3))
    (tmp_path / "dcp" / "__1_0.distcp").unlink()
    with pytest.raises(SourceError, match=r"1 of 3 files that \.metadata names are missing") as caught:
        back(tmp_path / "dcp", tmp_path / "back")
    assert "__1_0.distcp" in str(caught.value)


def test_a_save_that_was_not_finished_is_no_checkpoint(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    write_dcp(tmp_path / "dcp", llama[1])
    (tmp_path / "dcp" / ".metadata").unlink()
    with pytest.raises(SourceError, match="not saved to its end"):
        back(tmp_path / "dcp", tmp_path / "back")


def test_files_of_another_saving_are_seen(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    write_dcp(beside(tmp_path / "dcp", llama[0]), llama[1], fsdp2(2))
    write_dcp(tmp_path / "other", {name: tensor.float() for name, tensor in llama[1].items()}, fsdp2(2))
    (tmp_path / "dcp" / "__1_0.distcp").write_bytes((tmp_path / "other" / "__1_0.distcp").read_bytes())
    with pytest.raises(ConvsvcError):
        back(tmp_path / "dcp", tmp_path / "back")


def test_a_prefix_that_nothing_has_is_an_error_that_says_which_there_are(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    write_dcp(beside(tmp_path / "dcp", llama[0]), llama[1], prefix="module.")
    with pytest.raises(JobError, match=r"begins with 'model\.'") as caught:
        back(tmp_path / "dcp", tmp_path / "back", prefix="model")
    assert "'module.'" in str(caught.value)


def test_a_stated_prefix_chooses_among_several(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    both = {f"ema.{name}": tensor + 1 for name, tensor in llama[1].items()} | {f"net.{name}": tensor for name, tensor in llama[1].items()}
    write_dcp(beside(tmp_path / "dcp", llama[0]), both)
    with pytest.raises(ConvsvcError):
        back(tmp_path / "dcp", tmp_path / "first")
    have, notes = back(tmp_path / "dcp", tmp_path / "back", prefix="net.")
    assert same(llama[1], have)
    assert any("not under the prefix 'net.'" in note for note in notes)


def test_without_a_configuration_the_error_says_what_to_state(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    write_dcp(tmp_path / "dcp", llama[1])
    with pytest.raises(ConvsvcError, match="config_dir"):
        back(tmp_path / "dcp", tmp_path / "back")
    assert same(llama[1], back(tmp_path / "dcp", tmp_path / "back", config_dir=str(llama[0]))[0])


def test_planning_reads_a_few_kib_of_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dcp(tmp_path / "dcp", {"w": torch.zeros(64, 1 << 14)}, fsdp2(2))
    sizes: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: sizes.append(size) or pread(file, size, at))
    sides = {"source": {"format": "dcp", "path": str(tmp_path / "dcp")}, "target": {"format": "dcp", "path": str(tmp_path / "out")}}
    plan = make_plan({**sides, "model_type": "tensors"})
    assert [tensor.size_bytes for tensor in plan.source_tensors] == [32 << 16, 32 << 16]
    assert sum(sizes) < 16 << 10
