"""PEFT loads the adapters we export, and they do to the base model what merging them does."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from convsvc.errors import JobError, PlanError
from convsvc.plan.planner import make_plan
from tests.plan.adapted_ranks import add_adapters
from tests.real_clients.tiny_models import EXPERTS, Tiny, foreign, load, logits, save_random

pytestmark = pytest.mark.real_client
R, ALPHA = 3, 12
LORA = {"r": R, "alpha": ALPHA}
MLA = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12,
    "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 20, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
MODELS = {
    "llama2": Tiny("llama2", "LlamaConfig", {"head_dim": 12}),
    "phi3.5 (all fused)": Tiny("phi3.5", "Phi3Config", {"pad_token_id": 0}),
    "qwen3-moe": Tiny("qwen3-moe", "Qwen3MoeConfig", EXPERTS, {"tensor_parallel_size": 2, "expert_parallel_size": 2}),
    "deepseek3": Tiny("deepseek3", "DeepseekV3Config", MLA, {"tensor_parallel_size": 2, "expert_parallel_size": 2}),
    "mamba2": Tiny("mamba2", "Mamba2Config", {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 4}),
    "deepseek3 without tp": Tiny("deepseek3", "DeepseekV3Config", MLA, {"pipeline_parallel_size": 2}),
}


def adapted(tiny: Tiny, work: Path, **which: Any) -> Path:
    """Rank files of a random model with adapters; its Hugging Face directory is work / "hf"."""
    ranks = work / "ranks"
    save_random(tiny, work / "hf", dtype=torch.float32, tied=False)
    source = {"format": "huggingface", "path": str(work / "hf")}
    convert(
        {"model_type": tiny.family, "source": source, "target": {"format": "mindspeed-llm", "path": str(ranks), **tiny.layout}},
        engine="inline",
    )
    assert add_adapters(ranks, R, latent="kv_lora_rank" in tiny.extra, **which)
    return ranks


def job(ranks: Path, target: Path, lora: dict[str, Any] | None = LORA, **options: Any) -> dict[str, Any]:
    source = {"format": "mindspeed-llm", "path": str(ranks)} | ({"lora": lora} if lora else {})
    return {"source": source, "target": {"format": "huggingface", "path": str(target), **options}}


def exported(ranks: Path, work: Path) -> Path:
    convert(job(ranks, work / "adapter", adapter_only=True), engine="inline")
    return work / "adapter"


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_merged_weight_is_the_base_plus_its_exported_adapter(name: str, tmp_path: Path) -> None:
    ranks = adapted(MODELS[name], tmp_path)
    convert(job(ranks, tmp_path / "merged"), engine="inline")
    sides, base, merged = weights(exported(ranks, tmp_path)), weights(tmp_path / "hf"), weights(tmp_path / "merged")
    changed = {key for key, tensor in merged.items() if not torch.equal(tensor, base[key])}
    assert {f"base_model.model.{key.removesuffix('.weight')}.lora_{side}.weight" for key in changed for side in "AB"} == set(sides)
    for key in changed:
        a, b = (sides[f"base_model.model.{key.removesuffix('.weight')}.lora_{side}.weight"] for side in "AB")
        assert torch.allclose(merged[key], base[key] + ALPHA / R * b @ a, atol=1e-5), key


@pytest.mark.parametrize("layout", [{}, {"tensor_parallel_size": 4}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}], ids=str)
def test_peft_computes_with_the_adapter_what_the_merged_model_computes(layout: dict[str, int], tmp_path: Path) -> None:
    ranks = adapted(Tiny("llama2", "LlamaConfig", {"head_dim": 12}, layout), tmp_path)
    convert(job(ranks, tmp_path / "merged", config_dir=str(tmp_path / "hf")), engine="inline")
    want = logits(load(tmp_path / "merged")[0])
    base = load(tmp_path / "hf")[0]
    before = logits(base)
    directory, peft = exported(ranks, tmp_path), foreign(importlib.import_module, "peft")
    with warnings.catch_warnings():
        # peft calls what transformers deprecates. Its own warnings, of missing keys say, stay errors.
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.PeftModel.from_pretrained(base, directory).eval()
    have = logits(model)
    assert not torch.allclose(before, want, atol=1e-2)
    assert torch.allclose(have, want, atol=1e-5, rtol=1e-5)


def test_adapters_may_lie_in_a_checkpoint_of_their_own(tmp_path: Path) -> None:
    together = adapted(MODELS["llama2"], tmp_path)
    want = weights(exported(together, tmp_path))
    shutil.copytree(together, tmp_path / "lora")
    for root, is_adapter in ((together, False), (tmp_path / "lora", True)):
        for path in root.rglob("*.pt"):
            content = torch.load(path, weights_only=False)
            kept = {name: tensor for name, tensor in content["model"].items() if (".lora_" in name) is is_adapter}
            torch.save(content | {"model": {name.replace(".base_layer.", "."): tensor for name, tensor in kept.items()}}, path)
    convert(job(together, tmp_path / "again", {**LORA, "path": str(tmp_path / "lora")}, adapter_only=True), engine="inline")
    have = weights(tmp_path / "again")
    assert have.keys() == want.keys()
    assert all(torch.equal(have[name], tensor) for name, tensor in want.items())


def test_the_configuration_names_the_adapted_modules_alone(tmp_path: Path) -> None:
    ranks = adapted(MODELS["qwen3-moe"], tmp_path, targets=("linear_proj",))
    config = json.loads((exported(ranks, tmp_path) / "adapter_config.json").read_text())
    assert config["target_modules"] == ["o_proj"]
    assert (config["r"], config["lora_alpha"], config["task_type"], config["base_model_name_or_path"]) == (R, ALPHA, "CAUSAL_LM", None)


def test_an_export_needs_adapters(tmp_path: Path) -> None:
    ranks = adapted(MODELS["llama2"], tmp_path)
    with pytest.raises(JobError, match="does not say how to merge"):
        make_plan(job(ranks, tmp_path / "adapter", None, adapter_only=True))
    source = {"format": "huggingface", "path": str(tmp_path / "hf")}
    with pytest.raises(JobError, match="no adapters are read"):
        make_plan({"source": source, "target": {"format": "huggingface", "path": str(tmp_path / "x"), "adapter_only": True}})


def test_an_a_without_its_b_is_refused(tmp_path: Path) -> None:
    ranks = adapted(MODELS["llama2"], tmp_path)
    for path in ranks.rglob("*.pt"):
        content = torch.load(path, weights_only=False)
        name = next(key for key in content["model"] if ".lora_B." in key)
        del content["model"][name]
        torch.save(content, path)
    with pytest.raises(PlanError, match="lack A or B"):
        make_plan(job(ranks, tmp_path / "adapter", adapter_only=True))
