"""What Megatron-FSDP saves (`--ckpt-format fsdp_dtensor`): keys of its own, cut anywhere, read and written without a common.pt."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from convsvc.errors import ConvsvcError, JobError, LayoutError, SourceError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan
from tests.dialects.dcp.made import Piece, fsdp2, in_safetensors, same, write_dcp
from tests.dialects.megatron.test_integrity import MLA, write_model
from tests.dialects.megatron.test_megatron import Tensors, back, in_boxes, keys_of, moe_directory, run
from tests.tiny_checkpoints import write_llama

FSDP = {"storage": "fsdp_dtensor"}
GATE = "model.module.decoder.layers.0.mlp.linear_fc1.weight_w"


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    """Two layers, the first of them dense."""
    return moe_directory(tmp_path / "hf", mlp_only_layers=[0])


def written(hf: Path, target: Path, **stated: Any) -> Path:
    """A target made of a Hugging Face directory: the directory that has `.metadata`."""
    run({"format": "huggingface", "path": str(hf)}, {"format": "megatron", "path": str(target), **FSDP, **stated})
    return next(target.glob("*/.metadata")).parent


def saved_again(
    folder: Path, target: Path, cut: Callable[[str, tuple[int, ...]], list[Piece]], change: Callable[[Tensors], Tensors] = dict
) -> Path:
    """The same checkpoint as somebody else cuts it, `change`d, without args."""
    return write_dcp(target, change(keys_of(folder)), cut)


def test_keys_are_those_of_every_layer_and_expert_and_gates_lie_apart(tmp_path: Path, moe: Path) -> None:
    """Against slices made by hand."""
    keys, tensors = keys_of(written(moe, tmp_path / "fsdp")), in_safetensors(moe)
    experts = "model.module.decoder.layers.1.mlp.experts"
    for expert in range(4):
        for key, name in (("linear_fc1.weight{}_w", "gate"), ("linear_fc1.weight{}_v", "up"), ("linear_fc2.weight{}", "down")):
            want = tensors[f"model.layers.1.mlp.experts.{expert}.{name}_proj.weight"]
            assert torch.equal(keys[f"{experts}.{key.format(expert)}"], want)
    assert torch.equal(keys[GATE], tensors["model.layers.0.mlp.gate_proj.weight"])
    assert torch.equal(keys[GATE[:-1] + "v"], tensors["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(keys["model.module.decoder.layers.1.mlp.router.weight"], tensors["model.layers.1.mlp.gate.weight"])
    assert all(name.startswith("model.module.") for name in keys)
    assert not any("_extra_state" in name for name in keys)


def test_a_state_dicts_other_values_are_objects_and_there_is_no_other_file(tmp_path: Path, moe: Path) -> None:
    """As torch unfolds it: the nested state dict that Megatron's training saves."""
    folder = written(moe, tmp_path / "fsdp", iteration="12")
    assert folder.name == "iter_0000012"
    assert {path.name for path in folder.iterdir() if path.suffix != ".distcp"} == {".metadata"}
    assert (tmp_path / "fsdp" / "latest_checkpointed_iteration.txt").read_text() == "12"
    dcp_to_torch_save(folder, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=False)
    assert (state["iteration"], state["checkpoint_version"]) == (12, 3.0)
    assert isinstance(state["args"], Namespace)
    assert (state["args"].num_layers, state["args"].moe_layer_freq, state["args"].swiglu) == (2, [0, 1], True)
    assert set(state) == {"args", "checkpoint_version", "iteration", "model"}
    assert "module.decoder.final_layernorm.weight" in state["model"]


@pytest.mark.parametrize("cut", [fsdp2(3), fsdp2(5), in_boxes], ids=["rows", "ranks without rows", "boxes"])
@pytest.mark.parametrize("prefix", ["model.module.", "model.module.module.", "model."])
def test_shards_may_be_uneven_and_cut_groups_of_heads(
    tmp_path: Path, moe: Path, cut: Callable[[str, tuple[int, ...]], list[Piece]], prefix: str
) -> None:
    def wrapped(keys: Tensors) -> Tensors:
        return {name.replace("model.module.", prefix): each for name, each in keys.items()}

    again = saved_again(written(moe, tmp_path / "fsdp"), tmp_path / "again", cut, wrapped)
    assert same(in_safetensors(moe), back(again, tmp_path / "back", config_dir=str(moe)))


def test_experts_may_be_modules_of_their_own_and_norms_megatrons_own(tmp_path: Path, moe: Path) -> None:
    """SequentialMLP's names, and those of layers without Transformer Engine."""

    def local(keys: Tensors) -> Tensors:
        sequential = {
            re.sub(r"experts\.(linear_fc\d\.weight)(\d)", r"experts.local_experts.\2.\1", name): each for name, each in keys.items()
        }
        return {
            name.replace("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight").replace(
                "mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"
            ): each
            for name, each in sequential.items()
        }

    again = saved_again(written(moe, tmp_path / "fsdp"), tmp_path / "again", fsdp2(2), local)
    assert same(in_safetensors(moe), back(again, tmp_path / "back", config_dir=str(moe)))


def test_an_mtp_layers_inner_layer_may_bear_the_name_of_core_0_19s_module(tmp_path: Path) -> None:
    """Which fsdp_dtensor is saved with there: core 0.16 and those after 0.19 have the name that torch_dist has."""
    write_model(MLA, "deepseek3", tmp_path / "hf")

    def renamed(keys: Tensors) -> Tensors:
        kept = {name: each for name, each in keys.items() if ".carried." not in name}
        return {name.replace(".transformer_layer.", ".mtp_model_layer."): each for name, each in kept.items()}

    folder = written(tmp_path / "hf", tmp_path / "fsdp")
    assert any(".mtp_model_layer." in name for name in renamed(keys_of(folder)))
    again = saved_again(folder, tmp_path / "again", fsdp2(2), renamed)
    tensors = in_safetensors(tmp_path / "hf")
    want = {name: each for name, each in tensors.items() if not name.endswith("shared_head.head.weight")}  # a copy, which others leave out
    assert same(want, back(again, tmp_path / "back", config_dir=str(tmp_path / "hf")))


def test_experts_are_written_as_modules_of_their_own_where_training_has_no_grouped_gemm(tmp_path: Path, moe: Path) -> None:
    folder = written(moe, tmp_path / "fsdp", moe_grouped_gemm=False)
    experts = {name for name in keys_of(folder) if ".experts." in name}
    assert "model.module.decoder.layers.1.mlp.experts.local_experts.3.linear_fc1.weight_v" in experts
    assert len(experts) == 12
    assert all(".local_experts." in name for name in experts)
    assert same(in_safetensors(moe), back(folder, tmp_path / "back"))


def test_gates_that_lie_in_one_matrix_are_read_so(tmp_path: Path, moe: Path) -> None:
    """As of a gated model whose activation is not SwiGLU (handle_swiglu_in_state_dict is not called then)."""

    def joined(keys: Tensors) -> Tensors:
        whole = {name[:-2]: torch.cat([each, keys[f"{name[:-1]}v"]]) for name, each in keys.items() if name.endswith("_w")}
        return {name: each for name, each in keys.items() if name[-2:] not in ("_w", "_v")} | whole

    again = saved_again(written(moe, tmp_path / "fsdp"), tmp_path / "again", fsdp2(2), joined)
    assert same(in_safetensors(moe), back(again, tmp_path / "back", config_dir=str(moe)))


def test_a_gated_model_of_another_activation_is_written_in_one_matrix(tmp_path: Path) -> None:
    write_llama(tmp_path / "hf")
    words = json.loads((tmp_path / "hf" / "config.json").read_text())
    changed = {"model_type": "gemma", "architectures": ["GemmaForCausalLM"], "hidden_activation": "gelu_pytorch_tanh"}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(words | changed))
    keys = keys_of(written(tmp_path / "hf", tmp_path / "fsdp"))
    assert GATE[:-2] in keys
    assert not any(name.endswith("_w") for name in keys)
    assert same(in_safetensors(tmp_path / "hf"), back(tmp_path / "fsdp", tmp_path / "back"))


def test_what_training_keeps_beside_the_weights_is_named_and_left_out(tmp_path: Path, moe: Path) -> None:
    state = "optimizer.state.module.module.module."

    def trained(keys: Tensors) -> Tensors:
        moments = {
            f"{state}{name.removeprefix('model.module.')}.{kind}": each for name, each in keys.items() for kind in ("exp_avg", "exp_avg_sq")
        }
        return keys | moments | {"rng_state.(0, 0).0.random_rng_state": torch.zeros(4), "rerun_state_machine.sharded.loss": torch.zeros(2)}

    again = saved_again(written(moe, tmp_path / "fsdp"), tmp_path / "again", fsdp2(2), trained)
    result = run(
        {"format": "megatron", "path": str(again), "config_dir": str(moe)}, {"format": "huggingface", "path": str(tmp_path / "back")}
    )
    assert same(in_safetensors(moe), in_safetensors(tmp_path / "back"))
    ignored = " ".join(note.text for note in result.notes if note.kind == "ignored")
    assert "62 entries of .metadata: optimizer state of Megatron-FSDP" in ignored
    assert "rng_state" in ignored
    assert "rerun_state_machine" in ignored


def test_inspect_and_detection_know_it_by_the_names_of_its_weights(tmp_path: Path, moe: Path) -> None:
    folder = written(moe, tmp_path / "fsdp")
    for path in (folder, tmp_path / "fsdp"):
        said = inspect_checkpoint(str(path))
        assert (said["format"], said["layout"]["storage"], said["model_type"], said["complete"]) == (
            "megatron", "fsdp_dtensor", "qwen3-moe", True,
        )  # fmt: skip
        assert not said["notes"]


def test_names_of_hugging_face_below_a_tracker_are_another_formats(tmp_path: Path, moe: Path) -> None:
    """MindSpeed-MM's FSDP2 saves so."""
    run({"format": "huggingface", "path": str(moe)}, {"format": "dcp", "path": str(tmp_path / "dcp"), "release": True, "prefix": "model."})
    assert inspect_checkpoint(str(tmp_path / "dcp"))["format"] == "dcp"


def test_args_that_training_saved_are_read_and_must_agree(tmp_path: Path, moe: Path) -> None:
    written(moe, tmp_path / "fsdp")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(json.loads((moe / "config.json").read_text()) | {"num_attention_heads": 2}))
    with pytest.raises(SourceError, match="not that of this checkpoint") as raised:
        back(tmp_path / "fsdp", tmp_path / "back", config_dir=str(other))
    assert "heads" in str(raised.value)


def test_without_args_the_model_is_told_by_a_configuration_or_there_is_an_error_that_says_so(tmp_path: Path, moe: Path) -> None:
    again = saved_again(written(moe, tmp_path / "fsdp"), tmp_path / "again", fsdp2(2))
    with pytest.raises(ConvsvcError, match=r"no saved args \(state source.config_dir\)"):
        back(again, tmp_path / "back", "qwen3-moe")


def test_a_storage_that_it_is_not_is_an_error(tmp_path: Path, moe: Path) -> None:
    written(moe, tmp_path / "dist", storage="torch_dist")
    with pytest.raises(SourceError, match="was not saved by Megatron-FSDP"):
        back(tmp_path / "dist", tmp_path / "back", **FSDP)
    with pytest.raises(JobError, match="layer_keys: Megatron-FSDP has keys of each layer"):
        written(moe, tmp_path / "stacked", layer_keys="stacked")
    with pytest.raises(JobError, match="a fsdp_dtensor checkpoint is of no layout"):
        written(moe, tmp_path / "cut", pipeline_parallel_size=2)


def broken(moe: Path, tmp_path: Path, change: Callable[[Tensors], Tensors]) -> str:
    """What is said of a checkpoint whose keys were changed."""
    again = saved_again(written(moe, tmp_path / "fsdp"), tmp_path / "again", fsdp2(2), change)
    with pytest.raises(ConvsvcError) as raised:
        make_plan(
            {
                "source": {"format": "megatron", "path": str(again), "config_dir": str(moe)},
                "target": {"format": "huggingface", "path": str(tmp_path / "back")},
            }
        )
    return str(raised.value)


def test_a_half_without_the_other_is_missing(tmp_path: Path, moe: Path) -> None:
    said = broken(moe, tmp_path, lambda keys: {name: each for name, each in keys.items() if name != GATE[:-1] + "v"})
    assert "decoder.layers.0.mlp.linear_fc1.weight_v" in said
    assert "weight_w" not in said


def test_an_expert_that_is_not_there_is_missing(tmp_path: Path, moe: Path) -> None:
    said = broken(moe, tmp_path, lambda keys: {name: each for name, each in keys.items() if "linear_fc2.weight3" not in name})
    assert "decoder.layers.1.mlp.experts.linear_fc2.weight3" in said


def test_halves_of_other_sizes_are_named_with_both(tmp_path: Path, moe: Path) -> None:
    said = broken(moe, tmp_path, lambda keys: keys | {GATE: keys[GATE][:-2].clone()})
    assert f"{GATE.removeprefix('model.module.')}: expected [12, 8], found [10, 8]" in said


def test_an_expert_too_many_is_named(tmp_path: Path, moe: Path) -> None:
    last = "model.module.decoder.layers.1.mlp.experts.linear_fc2.weight"
    said = broken(moe, tmp_path, lambda keys: keys | {f"{last}4": keys[f"{last}3"]})
    assert "decoder.layers.1.mlp.experts.linear_fc2.weight4" in said


def test_virtual_stages_that_number_their_layers_anew_are_refused(tmp_path: Path, moe: Path) -> None:
    def staged(keys: Tensors) -> Tensors:
        stages = {name: "model1." if ".layers.1." in name else "model0." for name in keys}
        return {name.replace("model.", stage).replace(".layers.1.", ".layers.0."): keys[name] for name, stage in stages.items()}

    assert "holds 2 models (model0, model1 ...)" in broken(moe, tmp_path, staged)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path, moe: Path) -> None:
    again = saved_again(written(moe, tmp_path / "fsdp"), tmp_path / "again", fsdp2(2))
    (again / "__1_0.distcp").unlink()
    with pytest.raises(SourceError, match=r"1 of 2 files that \.metadata names are missing"):
        back(again, tmp_path / "back", config_dir=str(moe))


def test_a_model_of_no_text_decoder_has_no_place(tmp_path: Path, moe: Path) -> None:
    with pytest.raises(LayoutError, match="no text decoder"):
        run({"format": "huggingface", "path": str(moe)}, {"format": "megatron", "path": str(tmp_path / "fsdp"), **FSDP}, "tensors")
    shutil.rmtree(tmp_path / "fsdp", ignore_errors=True)


def test_it_becomes_torch_dist_and_rank_files_without_hugging_face_between(tmp_path: Path, moe: Path) -> None:
    written(moe, tmp_path / "fsdp")
    run({"format": "megatron", "path": str(tmp_path / "fsdp")}, {"format": "megatron", "path": str(tmp_path / "dist")})
    run({"format": "megatron", "path": str(tmp_path / "dist")}, {"format": "megatron", "path": str(tmp_path / "again"), **FSDP})
    first, last = (keys_of(next((tmp_path / name).glob("*/.metadata")).parent) for name in ("fsdp", "again"))
    assert same(first, last)


def test_torch_dist_of_singleton_local_shards_is_read_by_its_names(tmp_path: Path, moe: Path) -> None:
    """As core saves it with that in content_metadata, its default for a while: experts and halves apart, and metadata.json beside them."""
    folder = next(written(moe, tmp_path / "fsdp").parent.glob("release"))

    def single(keys: Tensors) -> Tensors:
        named = {name.removeprefix("model.module."): each for name, each in keys.items()}
        return {re.sub(r"experts\.(linear_fc\d\.weight)(\d)", r"experts.experts.\2.\1", name): each for name, each in named.items()}

    again = saved_again(folder, tmp_path / "again", in_boxes, single)
    (again / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    assert same(in_safetensors(moe), back(again, tmp_path / "back", config_dir=str(moe)))
    assert "storage" not in inspect_checkpoint(str(again)).get("layout", {})


def test_what_it_saves_is_read_by_torch_whole(tmp_path: Path, moe: Path) -> None:
    folder = written(moe, tmp_path / "fsdp", chunk_size="0.1KB")
    chunks = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata[GATE].chunks
    assert len(chunks) > 1
    assert same(keys_of(folder), keys_of(written(moe, tmp_path / "whole")))
