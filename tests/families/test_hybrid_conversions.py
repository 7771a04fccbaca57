"""Qwen3-Next, Mamba-2 and DeepSeek-V4 through real files: any layout, and back, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from convsvc.errors import JobError, SourceError
from convsvc.plan.planner import make_plan
from tests.families.hybrid_models import CONFIGS, STATE_SPACES, stored_shapes, write_hybrid
from tests.families.latent_models import differences, to_huggingface, to_megatron
from tests.golden.outputs import load_rank_file

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen3-next": (
        {"tensor_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True, "mtp_num_layers": 1},
        {"pipeline_parallel_size": 2, "schedules_method": "dualpipev", "mtp_num_layers": 1},
    ),
    "mamba2": (
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1},
    ),
    "deepseek4": (
        {"tensor_parallel_size": 2, "expert_parallel_size": 2, "expert_tensor_parallel_size": 1, "mtp_num_layers": 1},
        {"pipeline_parallel_size": 2, "schedules_method": "dualpipev", "mtp_num_layers": 1, "moe_grouped_gemm": True},
    ),
}
RANK = Path("iter_0000001") / "mp_rank_00" / "model_optim_rng.pt"


@pytest.mark.parametrize("family", CONFIGS)
def test_there_through_two_layouts_and_back_is_the_identity(family: str, tmp_path: Path) -> None:
    tensors = write_hybrid(family, tmp_path / "hf")
    first, second = LAYOUTS[family]
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "first", **first, options={"verify": "roundtrip"})
    to_megatron(tmp_path / "first", "mindspeed-llm", tmp_path / "second", **second, options={"verify": "roundtrip"})
    assert not differences(tensors, to_huggingface(tmp_path / "first", tmp_path / "once"))
    assert not differences(tensors, to_huggingface(tmp_path / "second", tmp_path / "twice"))


def test_a_tensor_rank_s_delta_net_is_the_first_key_head_with_its_values(tmp_path: Path) -> None:
    tensors = write_hybrid("qwen3-next", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", tensor_parallel_size=2)
    stored = load_rank_file(tmp_path / "mg" / RANK)["model"]
    conv = tensors["model.layers.0.linear_attn.conv1d.weight"]
    parts = conv.split([4, 4, 18])
    prefix = "decoder.layers.0.self_attention."
    assert torch.equal(stored[prefix + "conv1d.weight"], torch.cat([parts[0][:2], parts[1][:2], parts[2][:9]]))
    assert torch.equal(stored[prefix + "in_proj_ba.weight"], tensors["model.layers.0.linear_attn.in_proj_ba.weight"][:6])


def test_a_plan_says_that_training_has_no_cut_delta_net(tmp_path: Path) -> None:
    write_hybrid("qwen3-next", tmp_path / "hf")
    for tp, is_said in ((1, False), (2, True)):
        target = {"format": "mindspeed-llm", "path": str(tmp_path / "mg"), "tensor_parallel_size": tp}
        plan = make_plan({"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": target})
        assert any("loads it at tensor_parallel_size 1 only" in note.text for note in plan.notes) is is_said


def test_a_reduced_deepseek4_comes_back_with_the_layers_it_has(tmp_path: Path) -> None:
    tensors = write_hybrid("deepseek4", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", mtp_num_layers=1, options={"num_layers": 2})
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("layers.2.", "layers.3."))}
    assert not differences(kept, to_huggingface(tmp_path / "mg", tmp_path / "back"))


def test_a_base_model_s_copies_come_back_if_it_had_them(tmp_path: Path) -> None:
    tensors = write_hybrid("deepseek4_base", tmp_path / "hf", CONFIGS["deepseek4"])
    assert "mtp.0.head.weight" in tensors
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", mtp_num_layers=1, pipeline_parallel_size=2)
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))


def test_files_of_pairs_that_no_process_has_are_read(tmp_path: Path) -> None:
    """MindSpeed-LLM's converter writes them for DeepSeek-V4 with expert_tensor_parallel_size 1."""
    tensors = write_hybrid("deepseek4", tmp_path / "hf")
    layout = {"tensor_parallel_size": 2, "expert_parallel_size": 2, "expert_tensor_parallel_size": 1, "mtp_num_layers": 1}
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", **layout)
    folder = tmp_path / "mg" / "iter_0000001"
    _write_other_pairs(folder)
    assert sorted(path.name for path in folder.glob("mp_rank_*")) == [f"mp_rank_{t:02d}_{e:03d}" for t in (0, 1) for e in (0, 1)]
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))


def _write_other_pairs(folder: Path) -> None:
    """(0, 1) and (1, 0): tensor rank t's tensors with expert rank e's experts."""
    for t, e in ((0, 1), (1, 0)):
        by_tensor, by_expert = (load_rank_file(folder / f"mp_rank_{at:02d}_{at:03d}" / RANK.name) for at in (t, e))
        model = {name: by_expert["model"][name] if ".experts." in name else tensor for name, tensor in by_tensor["model"].items()}
        (folder / f"mp_rank_{t:02d}_{e:03d}").mkdir()
        torch.save({**by_tensor, "model": model}, folder / f"mp_rank_{t:02d}_{e:03d}" / RANK.name)


def write_without_args(directory: Path, source: Path) -> None:
    """The checkpoint as MindSpeed-LLM's converter saves Mamba-2: no args in any file."""
    for file in source.rglob("model_optim_rng.pt"):
        tree = {key: value for key, value in load_rank_file(file).items() if key != "args"}
        copied = directory / file.relative_to(source)
        copied.parent.mkdir(parents=True)
        torch.save(tree, copied)
    shutil.copy(source / "latest_checkpointed_iteration.txt", directory)


STATED = {"hidden_size": 8, "num_hidden_layers": 4, "mamba_state_dim": 3, "mamba_num_groups": 2, "mamba_head_dim": 4}


def convert_stated(source: Path, target: Path, architecture: dict[str, int] | None) -> None:
    stated = {"architecture": architecture} if architecture else {}
    place = {"format": "mindspeed-llm", "path": str(source), **stated}
    convert({"model_type": "mamba2", "source": place, "target": {"format": "huggingface", "path": str(target)}}, engine="inline")


def test_a_mamba2_checkpoint_without_args_is_read_with_stated_sizes(tmp_path: Path) -> None:
    tensors = write_hybrid("mamba2", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", tensor_parallel_size=2)
    write_without_args(tmp_path / "bare", tmp_path / "mg")
    convert_stated(tmp_path / "bare", tmp_path / "stated", STATED)
    back = {name: tensor for file in (tmp_path / "stated").glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert not differences(tensors, back)


def test_without_stated_sizes_it_is_refused_with_what_to_state(tmp_path: Path) -> None:
    write_hybrid("mamba2", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg")
    write_without_args(tmp_path / "bare", tmp_path / "mg")
    with pytest.raises(SourceError, match="has no saved args"):
        convert_stated(tmp_path / "bare", tmp_path / "out", None)
    partly = {name: size for name, size in STATED.items() if name != "mamba_num_groups"}
    with pytest.raises(SourceError, match="does not say mamba_num_groups or n_groups"):
        convert_stated(tmp_path / "bare", tmp_path / "out", partly)


def test_stated_sizes_must_agree_with_saved_args(tmp_path: Path) -> None:
    write_hybrid("mamba2", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg")
    with pytest.raises(JobError, match="contradicts the args saved"):
        convert_stated(tmp_path / "mg", tmp_path / "out", {**STATED, "mamba_state_dim": 5})


def test_a_state_spaces_model_comes_back_under_transformers_names(tmp_path: Path) -> None:
    config = {**STATE_SPACES, "ssm_cfg": {"layer": "Mamba2", "d_state": 3, "headdim": 4, "ngroups": 2}}
    tensors = write_hybrid("mamba2", tmp_path / "hf", config)
    assert stored_shapes("mamba2", config)["lm_head.weight"] == (16, 8)
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mg", tensor_parallel_size=2)
    assert not differences(tensors, to_huggingface(tmp_path / "mg", tmp_path / "back"))
