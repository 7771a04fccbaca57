"""What model code keeps in float32 stays so when a job casts, in both directions, unless the job insists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.families import FAMILIES
from convsvc.plan.planner import make_plan
from tests.families import hybrid_models, latent_models, test_gqa_round_trips
from tests.golden.outputs import load_rank_file

# A family, a tensor that its code keeps in float32, and what rank files call it.
KEPT = {
    "deepseek3": ("model.layers.1.mlp.gate.e_score_correction_bias", "decoder.layers.1.mlp.router.expert_bias"),
    "glm45": ("model.layers.1.mlp.gate.e_score_correction_bias", "decoder.layers.1.mlp.router.expert_bias"),
    "minimax_m2": ("model.layers.1.block_sparse_moe.e_score_correction_bias", "decoder.layers.1.mlp.router.expert_bias"),
    "longcat": ("model.layers.0.mlp.router.e_score_correction_bias", "decoder.layers.0.mlp.router.expert_bias"),
    "qwen3-next": ("model.layers.0.linear_attn.A_log", "decoder.layers.0.self_attention.A_log"),
    "mamba2": ("backbone.layers.0.mixer.A_log", "decoder.layers.0.mixer.A_log"),
    "deepseek4": ("layers.0.attn.attn_sink", "decoder.layers.0.self_attention.attn_sink"),
}
VALUE = 1.001


def write(family: str, directory: Path) -> str:
    """A bfloat16 model with one float32 tensor whose every value has no bfloat16; the tensor's name."""
    writers = ((latent_models.CONFIGS, latent_models.write_model), (hybrid_models.CONFIGS, hybrid_models.write_hybrid))
    next((write for configs, write in writers if family in configs), test_gqa_round_trips.write_model)(family, directory)
    stored = load_file(directory / "model.safetensors")
    tensors = {name: each.bfloat16() if each.is_floating_point() else each for name, each in stored.items()}
    name = KEPT[family][0]
    tensors[name] = torch.full_like(tensors[name], VALUE, dtype=torch.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return name


def job(source: Path, target: Path, to: str, **options: Any) -> dict[str, Any]:
    kinds = {"huggingface": "mindspeed-llm", "mindspeed-llm": "huggingface"}
    return {
        "source": {"format": kinds[to], "path": str(source)},
        "target": {"format": to, "path": str(target)},
        "options": options,
    }


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("family", KEPT)
def test_it_is_float32_in_rank_files_and_on_the_way_back(family: str, dtype: str, tmp_path: Path) -> None:
    name = write(family, tmp_path / "hf")
    convert(job(tmp_path / "hf", tmp_path / "mg", "mindspeed-llm", dtype=dtype), engine="inline")
    model = load_rank_file(tmp_path / "mg" / "iter_0000001" / "mp_rank_00" / "model_optim_rng.pt")["model"]
    assert model[KEPT[family][1]].dtype == torch.float32
    assert torch.all(model[KEPT[family][1]] == VALUE)
    cast = {each.dtype for other, each in model.items() if each.is_floating_point() and ".linear_" in other}
    assert cast <= {{"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]}
    convert(job(tmp_path / "mg", tmp_path / "back", "huggingface", dtype="bf16"), engine="inline")
    back = {key: each for file in (tmp_path / "back").glob("*.safetensors") for key, each in load_file(file).items()}
    assert back[name].dtype == torch.float32
    assert torch.all(back[name] == VALUE)


def test_a_job_that_insists_casts_everything(tmp_path: Path) -> None:
    write("deepseek3", tmp_path / "hf")
    plan = make_plan(job(tmp_path / "hf", tmp_path / "mg", "mindspeed-llm", dtype="bf16", cast_all=True))
    assert {each.dtype for each in plan.target_tensors} == {"BF16"}


def test_what_is_not_cast_is_said(tmp_path: Path) -> None:
    write("deepseek3", tmp_path / "hf")
    plan = make_plan(job(tmp_path / "hf", tmp_path / "mg", "mindspeed-llm", dtype="bf16"))
    said = [note.text for note in plan.notes if "not cast to bf16" in note.text]
    assert len(said) == 1
    assert "options.cast_all" in said[0]


def test_what_a_checkpoint_already_has_in_the_jobs_dtype_is_left_so(tmp_path: Path) -> None:
    latent_models.write_model("deepseek3", tmp_path / "hf")
    plan = make_plan(job(tmp_path / "hf", tmp_path / "mg", "mindspeed-llm", dtype="bf16"))
    assert {each.dtype for each in plan.target_tensors} == {"BF16"}
    assert not [note for note in plan.notes if "not cast" in note.text]


def test_a_layer_that_is_carried_keeps_it_too(tmp_path: Path) -> None:
    latent_models.write_model("deepseek3", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    name = "model.layers.5.mlp.gate.e_score_correction_bias"
    tensors[name] = tensors[name].float()
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    plan = make_plan(job(tmp_path / "hf", tmp_path / "mg", "mindspeed-llm", dtype="bf16"))
    assert [each.dtype for each in plan.target_tensors if each.name == name] == ["F32"]


def test_every_row_of_a_kept_logical_tensor_says_so() -> None:
    """A family that names a router's bias anew must not forget it."""
    kept = {each.name for family in FAMILIES.values() for row in (*family.experts, *family.attention) if row.keep for each in row.logicals}
    forgotten = [
        (family.name, row.stored)
        for family in FAMILIES.values()
        for row in (*family.norms, *family.attention, *family.mlp, *family.experts)
        if not row.keep and any(each.name in kept for each in row.logicals)
    ]
    assert forgotten == []
