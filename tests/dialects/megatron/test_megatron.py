"""Megatron core's distributed checkpoints: keys cut anywhere are read; what is written has all that a loader asks for."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from convsvc.conversion import convert
from convsvc.dialects.megatron.extra_states import extra_states
from convsvc.dialects.megatron.layout import Keys
from convsvc.errors import ConvsvcError, JobError, LayoutError, SourceError
from convsvc.families import FAMILIES, Facts, Wanted
from convsvc.models.model import Model
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan
from tests.dialects.dcp.made import Piece, fsdp2, in_safetensors, numbered, same, write_dcp
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]
MOE = {
    "model_type": "qwen3_moe", "hidden_size": 8, "vocab_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 2, "intermediate_size": 12, "moe_intermediate_size": 4, "num_experts": 4,
    "num_experts_per_tok": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
MLA = {
    "model_type": "deepseek_v3", "hidden_size": 8, "vocab_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "kv_lora_rank": 6, "q_lora_rank": 5, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3,
    "intermediate_size": 12, "moe_intermediate_size": 4, "n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1, "num_nextn_predict_layers": 1, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip


def model_of(config: Mapping[str, Any], family: str) -> Model:
    return FAMILIES[family].build(Facts(config, "config.json"), Wanted())


@pytest.fixture
def llama(tmp_path: Path) -> tuple[Path, Tensors]:
    write_llama(tmp_path / "hf")
    return tmp_path / "hf", in_safetensors(tmp_path / "hf")


def written(hf: Path, target: Path, **stated: Any) -> Path:
    """A target made of a Hugging Face directory: the directory that has `.metadata`."""
    run({"format": "huggingface", "path": str(hf)}, {"format": "megatron", "path": str(target), **stated})
    return next(target.glob("*/.metadata")).parent


def back(source: Path, target: Path, model_type: str | None = None, **stated: Any) -> Tensors:
    run({"format": "megatron", "path": str(source), **stated}, {"format": "huggingface", "path": str(target)}, model_type)
    return in_safetensors(target)


def run(source: Mapping[str, Any], target: Mapping[str, Any], model_type: str | None = None) -> Any:
    job = {"source": source, "target": target}
    return convert(job | ({"model_type": model_type} if model_type else {}), engine="inline")


def keys_of(folder: Path) -> Tensors:
    """All tensors, as torch loads them."""
    said = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {name: torch.zeros(each.size, dtype=each.properties.dtype) for name, each in said.items() if hasattr(each, "size")}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return state


def saved_again(
    folder: Path, target: Path, cut: Callable[[str, tuple[int, ...]], list[Piece]], change: Callable[[Tensors], Tensors] = dict
) -> Path:
    """The same checkpoint as somebody else saves it: cut in another way, `change`d, with common.pt and all."""
    write_dcp(target, change(keys_of(folder)), cut)
    for name in ("common.pt", "metadata.json"):
        shutil.copy(folder / name, target / name)
    return target


def in_boxes(name: str, shape: tuple[int, ...]) -> list[Piece]:
    """Boxes that divide nothing evenly: layers in twos, rows in threes, columns in fives."""
    steps = (2, 3, 5, 4)
    starts: list[tuple[int, ...]] = [()]
    for size, step in zip(shape, steps, strict=False):
        starts = [(*start, at) for start in starts for at in range(0, size, step)]
    stops = [tuple(min(a + step, size) for a, step, size in zip(start, steps, shape, strict=False)) for start in starts]
    return [(f"__{number % 3}_0.distcp", start, stop) for number, (start, stop) in enumerate(zip(starts, stops, strict=True))]


@pytest.mark.parametrize("layer_keys", ["stacked", "per-layer"])
@pytest.mark.parametrize("cut", [fsdp2(3), in_boxes], ids=["rows", "boxes"])
def test_chunks_may_be_cut_anywhere(
    tmp_path: Path, llama: tuple[Path, Tensors], layer_keys: str, cut: Callable[[str, tuple[int, ...]], list[Piece]]
) -> None:
    hf, tensors = llama
    folder = written(hf, tmp_path / "megatron", layer_keys=layer_keys)
    assert same(tensors, back(saved_again(folder, tmp_path / "again", cut), tmp_path / "back"))


@pytest.mark.parametrize("with_axis", [True, False], ids=["an item has the axis", "an item is one layer's"])
def test_offsets_may_have_a_layers_axis_that_sizes_lack(tmp_path: Path, llama: tuple[Path, Tensors], with_axis: bool) -> None:
    hf, tensors = llama
    folder = written(hf, tmp_path / "megatron", layer_keys="stacked")

    def layer_by_layer(name: str, shape: tuple[int, ...]) -> list[Piece]:
        if not name.startswith("decoder.layers."):
            return [("__0_0.distcp", (0,) * len(shape), shape)]
        rest = shape[1:]
        return [(f"__{layer}_0.distcp", (layer, *(0 for _ in rest)), (layer + 1, *rest)) for layer in range(shape[0])]

    def less_an_axis(metadata: Any) -> None:
        for name, said in metadata.state_dict_metadata.items():
            if name.startswith("decoder.layers."):
                said.chunks = [replace(chunk, sizes=chunk.sizes[1:]) for chunk in said.chunks]

    def of_one_layer(name: str, piece: torch.Tensor) -> torch.Tensor:
        return piece[0] if name.startswith("decoder.layers.") and not with_axis else piece

    again = write_dcp(tmp_path / "again", keys_of(folder), layer_by_layer, change=less_an_axis, saved_as=of_one_layer)
    for name in ("common.pt", "metadata.json"):
        shutil.copy(folder / name, again / name)
    assert same(tensors, back(again, tmp_path / "back"))


def test_keys_are_megatrons_and_gate_comes_before_up(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    """Against slices made by hand."""
    hf, tensors = llama
    keys = keys_of(written(hf, tmp_path / "megatron"))
    config = json.loads((hf / "config.json").read_text())
    layers, groups = config["num_hidden_layers"], config["num_key_value_heads"]

    def of(layer: int, name: str) -> torch.Tensor:
        return tensors[f"model.layers.{layer}.{name}.weight"]

    gate_up = torch.stack([torch.cat([of(layer, "mlp.gate_proj"), of(layer, "mlp.up_proj")]) for layer in range(layers)])
    assert torch.equal(keys["decoder.layers.mlp.linear_fc1.weight"], gate_up)
    norms = torch.stack([of(layer, "post_attention_layernorm") for layer in range(layers)])
    assert torch.equal(keys["decoder.layers.mlp.linear_fc1.layer_norm_weight"], norms)
    groups_of = [of(0, f"self_attn.{name}_proj").chunk(groups) for name in "qkv"]
    qkv = torch.cat([each for parts in zip(*groups_of, strict=True) for each in parts])
    assert torch.equal(keys["decoder.layers.self_attention.linear_qkv.weight"][0], qkv)
    assert torch.equal(keys["embedding.word_embeddings.weight"], tensors["model.embed_tokens.weight"])


def test_a_prefix_before_all_keys_is_taken_off_and_training_state_left_out(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    hf, tensors = llama

    def with_state(keys: Tensors) -> Tensors:
        state = {f"optimizer.state.exp_avg.{name}": torch.ones_like(each) for name, each in keys.items()}
        return {f"module.{name}": each for name, each in keys.items()} | state | {"chained_0.optimizer.state.param.x": torch.ones(3)}

    again = saved_again(written(hf, tmp_path / "megatron"), tmp_path / "again", fsdp2(1), with_state)
    source = {"format": "megatron", "path": str(again)}
    result = run(source, {"format": "huggingface", "path": str(tmp_path / "back")})
    assert same(tensors, in_safetensors(tmp_path / "back"))
    ignored = [note.text for note in result.notes if note.kind == "ignored"]
    assert any(re.match(r"\d+ entries of .metadata: optimizer state, fully_reshardable, .*: training state", text) for text in ignored)


def test_args_may_lie_in_an_object_as_core_0_19_saves_them(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    hf, tensors = llama
    folder = written(hf, tmp_path / "megatron")
    torch.save([torch.load(folder / "common.pt", weights_only=False)], folder / "common.distcp")
    (folder / "common.pt").unlink()
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.state_dict_metadata["common_state/shard_0_1"] = BytesStorageMetadata()
    place = _StorageInfo("common.distcp", 0, (folder / "common.distcp").stat().st_size)
    metadata.storage_data[MetadataIndex("common_state/shard_0_1")] = place
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert same(tensors, back(tmp_path / "megatron", tmp_path / "back"))


def without_words(folder: Path, **words: Any) -> Path:
    """The checkpoint with args as training saves them: Megatron's names alone."""
    common = torch.load(folder / "common.pt", weights_only=False)
    kept = {
        "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "group_query_attention", "kv_channels",
        "padded_vocab_size", "norm_epsilon", "rotary_base", "untie_embeddings_and_output_weights", "swiglu",
    }  # fmt: skip
    common["args"] = Namespace(**{name: value for name, value in vars(common["args"]).items() if name in kept} | words)
    torch.save(common, folder / "common.pt")
    return folder


def test_a_configuration_says_the_model_and_must_agree_with_the_args(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    hf, tensors = llama
    folder = without_words(written(hf, tmp_path / "megatron"))
    assert same(tensors, back(folder, tmp_path / "back", config_dir=str(hf)))
    with pytest.raises(JobError, match="no known model family"):
        back(folder, tmp_path / "unknown")
    without_words(folder, num_attention_heads=2)
    with pytest.raises(SourceError, match="not that of this checkpoint") as raised:
        back(folder, tmp_path / "other", config_dir=str(hf))
    assert "heads" in str(raised.value)


def test_padding_is_zero_rows_that_are_left_out_again(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    hf, tensors = llama
    rows = tensors["model.embed_tokens.weight"].shape[0]
    folder = written(hf, tmp_path / "megatron", make_vocab_size_divisible_by=rows - 1, chunk_size="0.05KB")
    keys = keys_of(folder)
    assert keys["embedding.word_embeddings.weight"].shape[0] == 2 * (rows - 1)
    assert not keys["embedding.word_embeddings.weight"][rows:].any()
    assert same(tensors, back(folder, tmp_path / "back"))


def test_a_chunk_has_no_more_than_its_size_and_a_file_no_two_of_a_key(tmp_path: Path) -> None:
    hf = moe_directory(tmp_path / "hf")
    metadata = dcp.FileSystemReader(written(hf, tmp_path / "megatron", chunk_size="0.1KB")).read_metadata()
    places = [(index.fqn, place.relative_path) for index, place in metadata.storage_data.items()]
    assert len(set(places)) == len(places)
    fc1 = metadata.state_dict_metadata["decoder.layers.mlp.experts.experts.linear_fc1.weight"]
    assert fc1.size == (2, 4, 8, 8)
    assert {tuple(chunk.sizes) for chunk in fc1.chunks} == {(1, 1, 8, 8)}
    qkv = metadata.state_dict_metadata["decoder.layers.self_attention.linear_qkv.weight"]
    assert all(prod(chunk.sizes) <= 50 for chunk in qkv.chunks)


def moe_directory(path: Path, **words: Any) -> Path:
    from convsvc.dialects.huggingface.layout import lay_model

    path.mkdir()
    config = MOE | words
    (path / "config.json").write_text(json.dumps(config))
    model = model_of(config, "qwen3-moe")
    save_file(numbered({laid.name: laid.shape for laid in lay_model(model).kinds if laid.written}), path / "model.safetensors")
    return path


def test_layers_that_differ_have_keys_of_their_own_and_cannot_be_stacked(tmp_path: Path) -> None:
    hf = moe_directory(tmp_path / "hf", mlp_only_layers=[0])
    folder = written(hf, tmp_path / "megatron")
    common = torch.load(folder / "common.pt", weights_only=False)
    assert common["content_metadata"]["non_homogeneous_layers"] is True
    assert common["args"].moe_layer_freq == [0, 1]
    assert "decoder.layers.1.mlp.experts.experts.linear_fc1.weight" in keys_of(folder)
    with pytest.raises(LayoutError, match="cannot be stacked"):
        written(hf, tmp_path / "stacked", layer_keys="stacked")


def test_stacked_layers_with_experts_say_no_list_which_would_ask_for_keys_of_each(tmp_path: Path) -> None:
    common = torch.load(written(moe_directory(tmp_path / "hf"), tmp_path / "megatron") / "common.pt", weights_only=False)
    assert common["args"].moe_layer_freq == 1
    assert "non_homogeneous_layers" not in common["content_metadata"]


def test_parallel_sizes_are_refused_as_the_checkpoint_is_of_none(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    with pytest.raises(JobError, match="a torch_dist checkpoint is of no layout"):
        written(llama[0], tmp_path / "megatron", tensor_parallel_size=2)


def test_extra_states_are_those_of_transformer_engines_layers() -> None:
    """Of the specification's modules: every linear, norm and core attention; not the router, the embedding, the output layer."""
    names = set(extra_states(model_of(MOE, "qwen3-moe"), Keys(12, stacked=True)))
    attention = ("linear_qkv", "linear_proj", "q_layernorm", "k_layernorm", "core_attention")
    of_layer = [f"self_attention.{name}" for name in attention] + ["pre_mlp_layernorm"]
    wanted = {f"decoder.layers.{name}._extra_state/shard_{layer}_2" for name in of_layer for layer in range(2)}
    wanted |= {
        f"decoder.layers.mlp.experts.experts.linear_fc{number}._extra_state/shard_{layer}.{expert}_2.4"
        for number in (1, 2)
        for layer in range(2)
        for expert in range(4)
    }
    assert names == wanted | {"decoder.final_layernorm._extra_state/shard_0_1"}


def test_extra_states_of_latent_attention_and_mtp_layers() -> None:
    model = FAMILIES["deepseek3"].build(Facts(MLA, "config.json"), Wanted(num_mtp=1))
    names = set(extra_states(model, Keys(12, stacked=False)))
    attention = ("linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj", "linear_proj", "core_attention")
    for prefix in ("decoder.layers.0", "decoder.layers.1", "mtp.layers.0.transformer_layer"):
        assert {f"{prefix}.self_attention.{name}._extra_state/shard_0_1" for name in attention} <= names
        assert f"{prefix}.input_layernorm._extra_state/shard_0_1" in names
    assert "decoder.layers.0.mlp.linear_fc1._extra_state/shard_0_1" in names
    assert "decoder.layers.1.mlp.shared_experts.linear_fc1._extra_state/shard_0_1" in names
    assert "decoder.layers.1.mlp.experts.experts.linear_fc2._extra_state/shard_1_2" in names
    assert {f"mtp.layers.0.{name}._extra_state/shard_0_1" for name in ("enorm", "hnorm", "eh_proj", "final_layernorm")} <= names
    assert not [name for name in names if "output_layer" in name or "embedding" in name or "router" in name]


def test_every_extra_state_is_an_object_that_torch_loads(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    folder = written(llama[0], tmp_path / "megatron")
    metadata = dcp.FileSystemReader(folder).read_metadata()
    objects = {name for name, each in metadata.state_dict_metadata.items() if isinstance(each, BytesStorageMetadata)}
    assert "decoder.layers.mlp.linear_fc2._extra_state/shard_1_2" in objects
    for name in objects:
        place = metadata.storage_data[MetadataIndex(name)]
        with (folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            (tmp_path / "object").write_bytes(file.read(place.length))
        assert torch.load(tmp_path / "object", weights_only=True) == [None]


def test_a_directory_of_iterations_is_recognised_and_inspected(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    written(llama[0], tmp_path / "megatron", iteration="7")
    assert (tmp_path / "megatron" / "latest_checkpointed_iteration.txt").read_text() == "7"
    said = inspect_checkpoint(str(tmp_path / "megatron"))
    assert said["format"] == "megatron"
    assert said["model_type"] == "llama2"


def rank_tensors(folder: Path) -> dict[str, Tensors]:
    return {
        file.parent.name: torch.load(file, weights_only=False)["model"]
        for file in sorted(folder.glob("iter_*/mp_rank_*/model_optim_rng.pt"))
    }


def test_rank_files_have_transformer_engines_names_and_the_values_of_any_others(tmp_path: Path) -> None:
    """The same experts and norms as MindSpeed-LLM's, whose tables are compared with its own converter."""
    hf = moe_directory(tmp_path / "hf", mlp_only_layers=[0])
    sizes = {"tensor_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True}
    for name, stated in (("megatron", {"storage": "torch"}), ("mindspeed-llm", {"transformer_impl": "transformer_engine"})):
        run({"format": "huggingface", "path": str(hf)}, {"format": name, "path": str(tmp_path / name), **stated, **sizes})
    ours, theirs = rank_tensors(tmp_path / "megatron"), rank_tensors(tmp_path / "mindspeed-llm")
    assert len(ours) == 4
    assert ours.keys() == theirs.keys()
    assert all(same(ours[rank], theirs[rank]) for rank in ours)
    first = ours["mp_rank_00_000"]
    assert {"decoder.layers.0.mlp.linear_fc1.layer_norm_weight", "decoder.layers.1.pre_mlp_layernorm.weight"} <= set(first)
    assert "decoder.layers.1.mlp.experts.linear_fc1.weight1" in first
    assert same(in_safetensors(hf), back(tmp_path / "megatron", tmp_path / "back", storage="torch"))


def test_rank_files_of_megatrons_own_modules_are_written_and_read(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    hf, tensors = llama
    target = {"format": "megatron", "path": str(tmp_path / "ranks"), "storage": "torch", "pipeline_parallel_size": 2}
    run({"format": "huggingface", "path": str(hf)}, {**target, "transformer_impl": "local"})
    assert "decoder.layers.0.input_layernorm.weight" in rank_tensors(tmp_path / "ranks")["mp_rank_00_000"]
    assert same(tensors, back(tmp_path / "ranks", tmp_path / "back", storage="torch"))


def test_fields_of_the_other_storage_are_refused(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    target = {"format": "megatron", "path": str(tmp_path / "ranks"), "storage": "torch", "chunk_size": "1MiB"}
    with pytest.raises(JobError, match='chunk_size: of storage "torch_dist" and "fsdp_dtensor" only'):
        run({"format": "huggingface", "path": str(llama[0])}, target)
    source = {"format": "megatron", "path": str(llama[0]), "storage": "torch", "config_dir": str(llama[0])}
    with pytest.raises(JobError, match='config_dir: of storage "torch_dist" and "fsdp_dtensor" only'):
        run(source, {"format": "huggingface", "path": str(tmp_path / "back")})


@pytest.mark.parametrize("stated", [{"noop_layers": [1]}, {"moe_tp_extend_ep": True}, {"schedules_method": "dualpipev"}])
def test_layouts_of_mindspeed_are_refused_as_its_args_would_say_nothing_of_them(
    tmp_path: Path, llama: tuple[Path, Tensors], stated: dict[str, Any]
) -> None:
    target = {"format": "megatron", "path": str(tmp_path / "ranks"), "storage": "torch", **stated}
    with pytest.raises(JobError, match="Megatron-LM has no such layout"):
        run({"format": "huggingface", "path": str(llama[0])}, target)


def spoilt(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))


def change_metadata(change: Callable[[Any], object]) -> Callable[[Path], object]:
    def done(folder: Path) -> None:
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        change(metadata)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return done


def drop_chunk(metadata: Any) -> None:
    metadata.state_dict_metadata["decoder.layers.mlp.linear_fc2.weight"].chunks.pop()


def one_more_key(folder: Path) -> None:
    """With bytes of its own."""

    def change(metadata: Any) -> None:
        said, places = metadata.state_dict_metadata, metadata.storage_data
        said["decoder.layers.mlp.linear_fc3.weight"] = said["decoder.layers.mlp.linear_fc2.weight"]
        for index, place in list(places.items()):
            if index.fqn == "decoder.layers.mlp.linear_fc2.weight":
                shutil.copy(folder / place.relative_path, folder / f"more{place.relative_path}")
                places[MetadataIndex("decoder.layers.mlp.linear_fc3.weight", index.offset)] = _StorageInfo(
                    f"more{place.relative_path}", place.offset, place.length
                )

    change_metadata(change)(folder)


def place_of_another(metadata: Any) -> None:
    """Of two norms, which are of one dtype and shape: both places are sound."""
    places = metadata.storage_data
    at = {index.fqn: index for index in places}
    places[at["decoder.layers.mlp.linear_fc1.layer_norm_weight"]] = places[at["decoder.layers.self_attention.linear_qkv.layer_norm_weight"]]


def into_the_next(metadata: Any) -> None:
    """Items that reach into those behind them."""
    places = metadata.storage_data
    for index, place in places.items():
        if "norm" in index.fqn:
            places[index] = _StorageInfo(place.relative_path, place.offset, place.length + 8192)


def another_file(metadata: Any) -> None:
    places = metadata.storage_data
    for index, place in places.items():
        places[index] = _StorageInfo(f"../{place.relative_path}", place.offset, place.length)


def beyond_the_end(metadata: Any) -> None:
    places = metadata.storage_data
    for index, place in places.items():
        places[index] = _StorageInfo(place.relative_path, place.offset + 10**9, place.length)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no metadata": (lambda folder: (folder / ".metadata").unlink(), "was not saved to its end"),
    "no file": (lambda folder: (folder / "__2_0.distcp").unlink(), r"1 of \d+ files that .metadata names are missing"),
    "cut short": (lambda folder: spoilt(folder, "__2_0.distcp", lambda data: data[:-3000]), "__2_0.distcp"),
    "zeros": (lambda folder: spoilt(folder, "__2_0.distcp", lambda data: bytes(len(data))), "not a torch zip file"),
    "metadata cut short": (lambda folder: spoilt(folder, ".metadata", lambda data: data[: len(data) // 2]), "damaged"),
    "code in metadata": (
        lambda folder: (folder / ".metadata").write_bytes(b"\x80\x04cos\nsystem\n\x8c\x02id\x85R."), "asks to run code: os.system"
    ),
    "code in args": (
        lambda folder: torch.save({"args": Namespace(x=print)}, folder / "common.pt"), "asks to run code: builtins.print"
    ),
    "a chunk less": (change_metadata(drop_chunk), "1 tensors are not whole"),
    "a key more": (one_more_key, "linear_fc3"),
    "another's place": (
        change_metadata(place_of_another), r"1 pairs of chunks lie at the same bytes(?s:.)+linear_fc1.layer_norm_weight from \[1, 0\]"
    ),
    "into the next": (change_metadata(into_the_next), "lie at the same bytes"),
    "outside": (change_metadata(another_file), "no file within the directory"),
    "beyond the end": (change_metadata(beyond_the_end), "distcp"),
    "a layer more": (lambda folder: without_words(folder, num_layers=3, model_type_hf="llama2"), "expected .3, "),
    "other width": (lambda folder: without_words(folder, ffn_hidden_size=6), "other shapes than this llama2 has"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SPOILT)
def test_what_is_spoilt_is_named(tmp_path: Path, llama: tuple[Path, Tensors], fault: str) -> None:
    folder = written(llama[0], tmp_path / "megatron")
    spoil, said = SPOILT[fault]
    spoil(folder)
    job = {
        "model_type": "llama2",
        "source": {"format": "megatron", "path": str(folder)},
        "target": {"format": "huggingface", "path": str(tmp_path / "back")},
    }
    with pytest.raises(ConvsvcError) as raised:
        make_plan(job)
    assert re.search(said, str(raised.value)), str(raised.value)


def test_bytes_changed_at_random_end_in_an_error_of_ours_or_in_a_plan(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    folder, random = written(llama[0], tmp_path / "megatron"), Random(11)
    job = {"source": {"format": "megatron", "path": str(folder)}, "target": {"format": "huggingface", "path": str(tmp_path / "back")}}
    ends: Counter[bool] = Counter()
    for _ in range(40):
        path = folder / random.choice([".metadata", "common.pt", "__2_0.distcp"])
        honest = path.read_bytes()
        changed = bytearray(honest)
        for _ in range(random.choice([1, 3])):
            changed[random.randrange(len(changed))] = random.randrange(256)
        path.write_bytes(changed[: random.choice([len(changed), random.randrange(len(changed))])])
        try:
            make_plan(job)
            ends[True] += 1
        except ConvsvcError:
            ends[False] += 1
        path.write_bytes(honest)
    assert ends[False] > 10
    make_plan(job)


def test_tensors_of_no_known_model_have_no_place(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    with pytest.raises(LayoutError, match="no text decoder"):
        run({"format": "huggingface", "path": str(llama[0])}, {"format": "megatron", "path": str(tmp_path / "megatron")}, "tensors")
    written(llama[0], tmp_path / "megatron")
    with pytest.raises(LayoutError, match="no text decoder"):
        back(tmp_path / "megatron", tmp_path / "back", "tensors")


def test_a_tracker_that_names_nothing_is_named(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    written(llama[0], tmp_path / "megatron")
    (tmp_path / "megatron" / "latest_checkpointed_iteration.txt").write_text("12")
    with pytest.raises(SourceError, match="iter_0000012 does not exist"):
        back(tmp_path / "megatron", tmp_path / "back")
    assert same(llama[1], back(tmp_path / "megatron", tmp_path / "back", iteration="release"))
