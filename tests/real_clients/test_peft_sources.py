"""Adapters that peft has saved merge into their base so that transformers computes what peft computes."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import PlanError, SourceError
from convsvc.plan.planner import make_plan
from tests.real_clients.tiny_models import EXPERTS, Tiny, foreign, load, logits, save_random

pytestmark = pytest.mark.real_client
LLAMA = Tiny("llama2", "LlamaConfig", {"head_dim": 12})
MODELS = {
    "llama2": LLAMA,
    "qwen25, which has biases": Tiny("qwen25", "Qwen2Config", {}),
    "qwen3-moe": Tiny("qwen3-moe", "Qwen3MoeConfig", EXPERTS, {"expert_parallel_size": 2}),
    "phi3.5 (all fused)": Tiny("phi3.5", "Phi3Config", {"pad_token_id": 0}),
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "peft's default modules": ("llama2", {"target_modules": ["q_proj", "v_proj"]}),
    "all linear layers": ("llama2", {"target_modules": "all-linear"}),
    "the head too": ("llama2", {"target_modules": ["k_proj", "down_proj", "lm_head"]}),
    "rslora with patterns": (
        "llama2",
        {
            "target_modules": ["q_proj", "k_proj", "gate_proj"], "use_rslora": True, "rank_pattern": {"k_proj": 5},
            "alpha_pattern": {r"layers\.1\.self_attn.q_proj": 7},
        },
    ),
    "some layers": ("llama2", {"target_modules": ["up_proj"], "layers_to_transform": [1, 3]}),
    "a head trained whole": ("llama2", {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "all biases": ("qwen25, which has biases", {"target_modules": ["q_proj", "v_proj"], "bias": "all"}),
    "biases of what is adapted": ("qwen25, which has biases", {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "attention and router": ("qwen3-moe", {"target_modules": ["q_proj", "v_proj", "o_proj"]}),
    "fused layers": ("phi3.5 (all fused)", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]}),
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "DoRA"),
    "a bias in B": ({"lora_bias": True}, "lora_bias"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "pissa"),
    "an embedding": ({"target_modules": ["embed_tokens"]}, "embedding"),
    "fused parameters": ({"target_modules": [], "target_parameters": ["mlp.up_proj.weight"]}, "target_parameters"),
    "trainable tokens": ({"trainable_token_indices": [1, 2]}, "trainable tokens"),
}


def adapted(base: Path, adapter: Path, **config: Any) -> torch.Tensor:
    """An adapter of random values for the base, as peft saves it; the logits with it."""
    peft = foreign(importlib.import_module, "peft")
    torch.manual_seed(1)
    with warnings.catch_warnings():
        # peft calls what transformers deprecates, and says what it saves beside adapters.
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(load(base)[0], peft.LoraConfig(r=3, lora_alpha=6, **config))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                with torch.no_grad():
                    parameter.add_(torch.randn_like(parameter) * (0.2 if "lora_" in name else 0.05))
        model.save_pretrained(adapter)
        return logits(model.eval())


def job(base: Path, adapter: Path, target: Path, **to: Any) -> dict[str, Any]:
    source = {"format": "huggingface", "path": str(base), "lora": {"path": str(adapter)}}
    return {"source": source, "target": {"path": str(target), **to}}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_merged_model_computes_what_peft_computes(name: str, tmp_path: Path) -> None:
    model, config = CONFIGS[name]
    base, ranks = tmp_path / "base", tmp_path / "ranks"
    save_random(MODELS[model], base, dtype=torch.float32, tied=False)
    before, want = logits(load(base)[0]), adapted(base, tmp_path / "adapter", **config)
    assert not torch.allclose(before, want, atol=1e-3)
    convert(job(base, tmp_path / "adapter", tmp_path / "merged", format="huggingface"), engine="inline")
    layout = {"tensor_parallel_size": 2, **MODELS[model].layout}
    convert(job(base, tmp_path / "adapter", ranks, format="mindspeed-llm", **layout), engine="inline")
    back = {"format": "huggingface", "path": str(tmp_path / "back"), "config_dir": str(base)}
    convert({"source": {"format": "mindspeed-llm", "path": str(ranks)}, "target": back}, engine="inline")
    for directory in ("merged", "back"):
        if not (tmp_path / directory / "config.json").exists():
            (tmp_path / directory / "config.json").write_text((base / "config.json").read_text())
        assert torch.allclose(logits(load(tmp_path / directory)[0]), want, atol=2e-5, rtol=1e-4), directory


@pytest.mark.parametrize("name", REFUSED)
def test_what_peft_saves_and_is_not_plain_lora_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    config, words = REFUSED[name]
    save_random(LLAMA, tmp_path / "base", dtype=torch.float32, tied=False)
    adapted(tmp_path / "base", tmp_path / "adapter", **{"target_modules": ["q_proj"], **config})
    with pytest.raises((SourceError, PlanError)) as caught:
        make_plan(job(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", format="huggingface"))
    assert words in str(caught.value)
