"""Which files of a Hugging Face directory are read, what is said of the others, and what is said of a directory that is something else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.dialects import source_of
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.huggingface.job import HuggingFaceSource
from convsvc.dialects.mindspeed_llm.job import MindSpeedSource
from convsvc.errors import ConvsvcError, PathRefused, SourceError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.roots import ANYWHERE, Roots
from tests.tiny_checkpoints import write_llama

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456789\n"
CONFLICT = '{\n<<<<<<< HEAD\n  "a": 1,\n=======\n  "a": 2,\n>>>>>>> main\n  "b": 3\n}\n'
INDEX = "model.safetensors.index.json"


def opened(path: Path, roots: Roots = ANYWHERE) -> Checkpoint:
    return source_of("huggingface").open(HuggingFaceSource(format="huggingface", path=str(path)), roots)


def refused(path: Path, reader: str = "huggingface") -> SourceError:
    kind = HuggingFaceSource if reader == "huggingface" else MindSpeedSource
    with pytest.raises(SourceError) as caught:
        source_of(reader).open(kind(format=reader, path=str(path)), ANYWHERE)
    return caught.value


def files_of(checkpoint: Checkpoint) -> list[str]:
    return [Path(file.name).name for file in checkpoint.files]


def write(path: Path, name: str, value: float = 1.0) -> None:
    save_file({"w": torch.full((2,), value)}, path / name)


def write_index(path: Path, *files: str) -> None:
    (path / INDEX).write_text(json.dumps({"weight_map": {f"w{at}" if at else "w": file for at, file in enumerate(files)}}))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory with a configuration alone."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    return tmp_path / "m"


def test_the_single_file_comes_before_an_index_and_the_note_names_what_is_not_read(bare: Path) -> None:
    write(bare, "model.safetensors")
    write(bare, "model-00001-of-00001.safetensors", 2.0)
    write_index(bare, "model-00001-of-00001.safetensors")
    found = opened(bare)
    assert files_of(found) == ["model.safetensors"]
    (note,) = found.notes
    assert note.kind == "ignored"
    assert "model-00001-of-00001.safetensors" in note.text
    assert INDEX in note.text


def test_safetensors_come_before_bin_files(bare: Path) -> None:
    write(bare, "model-00001-of-00001.safetensors")
    write_index(bare, "model-00001-of-00001.safetensors")
    torch.save({"w": torch.zeros(2)}, bare / "pytorch_model.bin")
    found = opened(bare)
    assert files_of(found) == ["model-00001-of-00001.safetensors"]
    assert any("pytorch_model.bin" in note.text for note in found.notes)


def test_a_configuration_may_name_its_weight_file(bare: Path) -> None:
    write(bare, "model.safetensors")
    write(bare, "other.safetensors")
    (bare / "config.json").write_text('{"transformers_weights": "other.safetensors"}')
    assert files_of(opened(bare)) == ["other.safetensors"]
    for name in ("../x.safetensors", "weights.pkl", 7, "missing.safetensors"):
        (bare / "config.json").write_text(json.dumps({"transformers_weights": name}))
        assert "transformers_weights" in refused(bare).message


def test_every_weight_that_is_not_read_is_noted(bare: Path) -> None:
    write(bare, "model.safetensors")
    for name in ("consolidated.safetensors", "extra.pth", "tf_model.h5", "model.gguf", "optimizer.bin", "tokenizer.model", "vocab.txt"):
        (bare / name).write_bytes(b"x")
    (bare / "original").mkdir()
    (bare / "original/consolidated.00.pth").write_bytes(b"x")
    said = {note.text for note in opened(bare).notes}
    assert said == {
        "weights beside model.safetensors, which is what transformers loads: consolidated.safetensors, extra.pth, model.gguf, tf_model.h5",
        "training state, not weights: optimizer.bin",
        "weights in directories beside: original/ (1)",
    }


def test_an_adapter_beside_the_weights_is_noted(bare: Path) -> None:
    write(bare, "model.safetensors")
    (bare / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/base"}')
    write(bare, "adapter_model.safetensors")
    (note,) = opened(bare).notes
    assert note.text.startswith("a PEFT adapter beside the weights (LORA, r 8, of org/base)")


def test_one_shard_of_several_without_an_index_is_not_taken_for_the_model(bare: Path) -> None:
    write(bare, "model-00001-of-00003.safetensors")
    assert "one of 3 weight files" in refused(bare).message


def test_an_index_of_nothing_is_refused(bare: Path) -> None:
    (bare / INDEX).write_text('{"weight_map": {}}')
    assert "names no weights" in refused(bare).message


def test_a_hub_cache_is_read_through_its_links(tmp_path: Path) -> None:
    """huggingface_hub keeps files under blobs/ by their digests; a snapshot is relative links."""
    plain, repo = write_llama(tmp_path / "plain"), tmp_path / "models--org--tiny"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots/abc").mkdir(parents=True)
    for at, file in enumerate(sorted(plain.iterdir())):
        (repo / f"blobs/{at:064x}").write_bytes(file.read_bytes())
        (repo / "snapshots/abc" / file.name).symlink_to(f"../../blobs/{at:064x}")
    assert inspect_checkpoint(str(repo / "snapshots/abc"))["complete"] is True
    assert opened(repo / "snapshots/abc", Roots((str(repo),))).found.keys() == opened(plain).found.keys()
    told = refused(repo)
    assert told.message.startswith(f"{repo} is an entry of a hub cache with 1 snapshot(s): {repo}/snapshots/abc")
    with pytest.raises(PathRefused):
        opened(repo / "snapshots/abc", Roots((str(repo / "snapshots"),)))


def test_a_link_to_nothing_is_called_one(bare: Path) -> None:
    (bare / "model.safetensors").symlink_to("../../blobs/gone")
    assert "links to nothing: model.safetensors" in refused(bare).message
    (bare / "model.safetensors").unlink()
    (bare / "model-00001-of-00001.safetensors").symlink_to("gone")
    write_index(bare, "model-00001-of-00001.safetensors")
    assert "links to nothing: model-00001-of-00001.safetensors" in refused(bare).message


@pytest.mark.parametrize("name", ["model.safetensors", INDEX, "config.json"])
def test_a_git_lfs_pointer_is_called_one_wherever_it_stands(bare: Path, name: str) -> None:
    write(bare, "model-00001-of-00001.safetensors")
    write_index(bare, "model-00001-of-00001.safetensors")
    (bare / name).write_text(POINTER)
    error = refused(bare)
    assert error.message == f"{bare / name} is a Git LFS pointer, not the file itself"
    assert "git lfs pull" in str(error)


@pytest.mark.parametrize("name", [INDEX, "config.json"])
def test_a_merge_conflict_is_called_one(bare: Path, name: str) -> None:
    (bare / name).write_text(CONFLICT)
    assert refused(bare).message == f"{bare / name} holds the marks of a merge conflict (line 2)"


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bin_file_of_before_torch_1_6_is_called_one(bare: Path, protocol: int) -> None:
    state = {"w": torch.zeros(2)}
    torch.save(state, bare / "pytorch_model.bin", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    error = refused(bare)
    assert error.message.endswith("pytorch_model.bin is a torch file of before 1.6 (not a zip)")
    assert "torch.save(torch.load(" in str(error)


WRONG_FILES = {
    "<!DOCTYPE html><html>": "a web page", "\n<HTML>": "a web page", "<Error><Code>Denied</Code>": "an answer of a storage server",
    '{"error": "not found"}': "a JSON file", "\0" * 64: "a file that begins with zeros", "GGUF....": "a GGUF file",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_FILES)
def test_a_weight_file_that_is_something_else_is_called_that(bare: Path, text: str) -> None:
    (bare / "model.safetensors").write_text(text)
    assert f"model.safetensors is {WRONG_FILES[text]}" in refused(bare).message


Make = Callable[[Path], None]


def touching(*names: str) -> Make:
    def make(path: Path) -> None:
        for name in names:
            if name.endswith("/"):
                (path / name).mkdir(parents=True)
            else:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(b"{}")

    return make


def torch_dist(path: Path) -> None:
    touching(".metadata", "__0_0.distcp", "common.pt")(path)
    (path / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')


DIRECTORIES: dict[str, tuple[Make, str]] = {
    "torch_dist": (torch_dist, "a Megatron distributed checkpoint (torch_dist)"),
    "dcp": (touching(".metadata", "__0_0.distcp"), "a torch distributed checkpoint (DCP"),
    "zero": (touching("zero_to_fp32.py", "latest", "global_step10/zero_pp_rank_0_mp_rank_00_optim_states.pt"), "a DeepSpeed checkpoint"),
    "zero, inside": (touching("mp_rank_00_model_states.pt"), "a DeepSpeed checkpoint"),
    "fsdp": (touching("pytorch_model_fsdp_0/.metadata"), "an FSDP checkpoint of accelerate"),
    "gguf": (touching("model-q4_k_m.gguf"), "a GGUF model of llama.cpp (model-q4_k_m.gguf)"),
    "onnx": (touching("model.onnx", "model.onnx_data"), "an ONNX model"),
    "tensorflow": (touching("tf_model.h5"), "a TensorFlow checkpoint (tf_model.h5)"),
    "flax": (touching("flax_model.msgpack"), "a Flax checkpoint"),
    "meta": (touching("consolidated.00.pth", "params.json"), "a checkpoint in Meta's or Mistral's own format (consolidated.00.pth)"),
    "mistral": (touching("consolidated.safetensors", "params.json"), "a checkpoint in Meta's or Mistral's own format"),
    "orbax": (touching("_CHECKPOINT_METADATA", "manifest.ocdbt"), "a JAX (Orbax) checkpoint"),
    "nemo": (touching("weights/", "context/"), "a NeMo 2 checkpoint"),
    "tensorrt": (touching("rank0.safetensors"), "a TensorRT-LLM checkpoint"),
    "diffusers": (touching("model_index.json", "unet/"), "a pipeline of diffusers"),
    "pickles": (touching("a.pkl", "b.pth"), "a directory of PyTorch or pickle files under names of their own (a.pkl, b.pth)"),
    "adapter": (touching("adapter_config.json", "adapter_model.safetensors"), "a PEFT adapter"),
    "trainer": (touching("checkpoint-500/", "checkpoint-1000/"), "a directory of trainer checkpoints (checkpoint-1000, checkpoint-500)"),
}  # fmt: skip
# A configuration says that it is a model; a tracker may lie among iterations.
WITH_CONFIG = {"named otherwise": (touching("w.safetensors"), "a directory whose weights have other names (w.safetensors)")}
NO_RANK_FILES = {name: each for name, each in DIRECTORIES.items() if name != "trainer"} | {
    "hugging face": (touching("config.json", "model.safetensors"), "a Hugging Face checkpoint")
}


@pytest.mark.parametrize("kind", DIRECTORIES)
def test_a_directory_of_something_else_is_called_that_in_the_first_line(kind: str, tmp_path: Path) -> None:
    make, what = DIRECTORIES[kind]
    make(tmp_path)
    error = refused(tmp_path)
    assert error.message.startswith(f"{tmp_path} is {what}")
    assert "\n  do: " in str(error)


@pytest.mark.parametrize("kind", [*DIRECTORIES, *WITH_CONFIG])
def test_a_configuration_beside_it_changes_nothing(kind: str, tmp_path: Path) -> None:
    make, what = (DIRECTORIES | WITH_CONFIG)[kind]
    make(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    error = refused(tmp_path)
    assert error.message.startswith(f"{tmp_path} is {what}")
    assert "\n  do: " in str(error)


@pytest.mark.parametrize("kind", NO_RANK_FILES)
def test_a_directory_that_is_no_rank_files_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    make, what = NO_RANK_FILES[kind]
    make(tmp_path)
    assert refused(tmp_path, "mindspeed-llm").message.startswith(f"{tmp_path} is {what}")


def test_rank_files_given_as_hugging_face_are_called_rank_files(tmp_path: Path) -> None:
    touching("latest_checkpointed_iteration.txt", "iter_0000100/mp_rank_00/model_optim_rng.pt", "config.json")(tmp_path)
    error = refused(tmp_path)
    assert error.message.startswith(f"{tmp_path} is a Megatron checkpoint (iter_0000100, latest_checkpointed_iteration.txt)")
    assert '"mindspeed-llm"' in str(error)
    assert refused(tmp_path / "iter_0000100/mp_rank_00").message.endswith(
        "is one rank's directory of a Megatron checkpoint, not " + EXPECTED
    )


EXPECTED = "a Hugging Face checkpoint with model*.safetensors or pytorch_model*.bin"


def test_inspect_says_what_a_directory_is(tmp_path: Path) -> None:
    touching("model-q4_k_m.gguf")(tmp_path)
    with pytest.raises(ConvsvcError, match=r"is a GGUF model of llama.cpp"):
        inspect_checkpoint(str(tmp_path))


def test_rank_files_that_are_links_into_blobs_are_whole(tmp_path: Path) -> None:
    from convsvc.conversion import convert

    hf, mcore = write_llama(tmp_path / "hf"), tmp_path / "mcore"
    target = {"format": "mindspeed-llm", "path": str(mcore), "tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    convert({"source": {"format": "huggingface", "path": str(hf)}, "target": target}, engine="inline")
    repo = tmp_path / "models--org--tiny"
    (repo / "blobs").mkdir(parents=True)
    for at, file in enumerate(sorted(each for each in mcore.rglob("*") if each.is_file())):
        link = repo / "snapshots/abc" / file.relative_to(mcore)
        link.parent.mkdir(parents=True, exist_ok=True)
        (repo / f"blobs/{at:064x}").write_bytes(file.read_bytes())
        link.symlink_to(os.path.relpath(repo / f"blobs/{at:064x}", link.parent))
    about = inspect_checkpoint(str(repo / "snapshots/abc"))
    assert about["complete"] is True
    assert about["parallel"]["pp"] == 2


def test_what_lies_beside_rank_files_and_is_not_read_is_noted(tmp_path: Path) -> None:
    from convsvc.conversion import convert

    hf, mcore = write_llama(tmp_path / "hf"), tmp_path / "mcore"
    target = {"format": "mindspeed-llm", "path": str(mcore)}
    convert({"source": {"format": "huggingface", "path": str(hf)}, "target": target}, engine="inline")
    for name in ("mp_rank_00/distrib_optim.pt", "extra.safetensors", "notes.txt"):
        (mcore / "iter_0000001" / name).write_bytes(b"x")
    notes = source_of("mindspeed-llm").open(MindSpeedSource(format="mindspeed-llm", path=str(mcore)), ANYWHERE).notes
    assert "beside the rank files, and not read: mp_rank_00/distrib_optim.pt, extra.safetensors" in [note.text for note in notes]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "not tied"])
def test_a_head_that_only_the_index_knows_is_missed_where_the_model_has_one(tied: bool, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "hf")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    held = {name: each.clone() for name, each in load_file(path / "model.safetensors").items() if name != "lm_head.weight"}
    (path / "model.safetensors").unlink()
    file = "model-00001-of-00001.safetensors"
    save_file(held, path / file)
    (path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys([*held, "lm_head.weight"], file)}))
    about = inspect_checkpoint(str(path))
    assert about["complete"] is tied
    assert any("in no file, though" in note["text"] and "lm_head.weight" in note["text"] for note in about["notes"])
    if not tied:
        assert about["missing"] == ["lm_head.weight"]
