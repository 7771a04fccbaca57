"""DeepSeek's sparse attention in global keys: the indexer is part of core_attention, latent norms are modules of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import JobError, LayoutError
from convsvc.plan.planner import make_plan
from tests.dialects.dcp.made import in_safetensors, same
from tests.dialects.megatron.test_integrity import write_model
from tests.dialects.megatron.test_megatron import keys_of, written
from tests.families.latent_models import CONFIGS

INDEXER = {"linear_wq_b.weight", "linear_wk.weight", "k_norm.weight", "k_norm.bias", "linear_weights_proj.weight"}


def config_of(family: str, **changed: Any) -> dict[str, Any]:
    return {**CONFIGS[family], "num_nextn_predict_layers": 0, "index_topk": 2, **changed}


@pytest.mark.parametrize("family", ["deepseek32", "glm5"])
def test_weights_come_back_and_the_indexers_have_core_0_19s_keys(family: str, tmp_path: Path) -> None:
    config = config_of(family)
    write_model(config, family, tmp_path / "hf")
    tensors, keys = in_safetensors(tmp_path / "hf"), keys_of(written(tmp_path / "hf", tmp_path / "megatron"))
    indexed = {int(name.split(".")[2]) for name in tensors if ".indexer." in name}
    begins = "self_attention.core_attention.indexer."
    for layer in range(config["num_hidden_layers"]):
        held = {name.partition(begins)[2] for name in keys if name.startswith(f"decoder.layers.{layer}.{begins}")}
        assert held == (INDEXER if layer in indexed else set())
        within = [name.split(".", 4)[4] for name in keys if name.startswith(f"decoder.layers.{layer}.self_attention.")]
        assert {name for name in within if "norm" in name and "indexer" not in name} == {"q_layernorm.weight", "kv_layernorm.weight"}
    wk = "model.layers.0.self_attn.indexer.wk.weight"
    assert torch.equal(keys[f"decoder.layers.0.{begins}linear_wk.weight"], tensors[wk])
    job = {"source": {"format": "megatron", "path": str(tmp_path / "megatron")}, "target": {"format": "huggingface"}}
    convert({**job, "target": {**job["target"], "path": str(tmp_path / "back")}}, engine="inline")
    assert same(tensors, in_safetensors(tmp_path / "back"))


def test_args_say_the_indexers_and_which_layers_have_one(tmp_path: Path) -> None:
    write_model(config_of("glm5"), "glm5", tmp_path / "hf")
    folder = written(tmp_path / "hf", tmp_path / "megatron")
    args = torch.load(folder / "common.pt", weights_only=False)["args"]
    assert (args.experimental_attention_variant, args.dsa_indexer_topk) == ("dsa", 2)
    tensors = in_safetensors(tmp_path / "hf")
    indexed = {int(name.split(".")[2]) for name in tensors if ".indexer." in name}
    first, often = max(args.dsa_indexer_skip_topk_offset, 1), args.dsa_indexer_topk_freq
    assert {layer for layer in range(args.num_layers) if max(layer + 1 - first, 0) % often == 0} == indexed
    assert len(indexed) < args.num_layers


@pytest.mark.parametrize(("family", "neighbours"), [("deepseek32", False), ("glm5", True)])
def test_args_and_configurations_say_how_a_familys_indexers_rotate_and_norm(family: str, neighbours: bool, tmp_path: Path) -> None:
    """transformers' DeepseekV32Indexer rotates halves and GlmMoeDsaIndexer neighbours; both norm keys with 1e-6, whatever rms_norm_eps."""
    write_model(config_of(family, rms_norm_eps=1e-5), family, tmp_path / "hf")
    folder = written(tmp_path / "hf", tmp_path / "megatron")
    args = torch.load(folder / "common.pt", weights_only=False)["args"]
    said = (args.dsa_indexer_rope_interleaved, args.dsa_indexer_k_norm_epsilon, args.norm_epsilon)
    assert said == (neighbours, 1e-6, 1e-5)
    job = {"source": {"format": "megatron", "path": str(folder)}, "target": {"format": "huggingface", "path": str(tmp_path / "back")}}
    convert(job, engine="inline")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["indexer_rope_interleave"] is neighbours
    args.dsa_indexer_rope_interleaved = not neighbours
    torch.save({**torch.load(folder / "common.pt", weights_only=False), "args": args}, folder / "common.pt")
    with pytest.raises(JobError, match="contradicts the source") as raised:
        make_plan({**job, "target": {**job["target"], "path": str(tmp_path / "other"), "config_dir": str(tmp_path / "hf")}})
    assert "indexers rotate " in str(raised.value.facts)


def test_a_pattern_that_no_frequency_says_is_refused_by_name(tmp_path: Path) -> None:
    kinds = ["full", "shared", "full", "full", "full"]
    write_model(config_of("glm5", indexer_types=kinds), "glm5", tmp_path / "hf")
    job = {"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": {"format": "megatron", "path": str(tmp_path / "m")}}
    with pytest.raises(LayoutError, match="follow no frequency"):
        make_plan(job)
