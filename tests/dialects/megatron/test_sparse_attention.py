"""DeepSeek's sparse attention in global keys: the indexer is part of core_attention, latent norms are modules of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import LayoutError
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


def test_a_pattern_that_no_frequency_says_is_refused_by_name(tmp_path: Path) -> None:
    kinds = ["full", "shared", "full", "full", "full"]
    write_model(config_of("glm5", indexer_types=kinds), "glm5", tmp_path / "hf")
    job = {"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": {"format": "megatron", "path": str(tmp_path / "m")}}
    with pytest.raises(LayoutError, match="follow no frequency"):
        make_plan(job)
