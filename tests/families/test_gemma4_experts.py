"""Gemma 4's experts one by one, as quantisers save them: read as what the class stacks."""

from __future__ import annotations

import json
from pathlib import Path

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import Facts, find_family
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.plan.planner import make_plan

CONFIG = {
    "model_type": "gemma4_text", "architectures": ["Gemma4ForCausalLM"], "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "global_head_dim": 4, "vocab_size": 16, "enable_moe_block": True,
    "num_experts": 3, "top_k_experts": 2, "moe_intermediate_size": 6, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "layer_types": ["sliding_attention", "full_attention"], "attention_k_eq_v": False,
}  # fmt: skip


def one_by_one(name: str, shape: tuple[int, ...]) -> list[TensorSpec]:
    """What a stacked tensor is when every expert's matrices are stored apart."""
    folder, _, last = name.rpartition(".")
    if last == "down_proj":
        return [TensorSpec(f"{folder}.{expert}.down_proj.weight", "BF16", shape[1:]) for expert in range(3)]
    if last == "gate_up_proj":
        half = (shape[1] // 2, shape[2])
        return [TensorSpec(f"{folder}.{expert}.{side}_proj.weight", "BF16", half) for expert in range(3) for side in ("gate", "up")]
    return [TensorSpec(name, "BF16", shape)]


def test_experts_that_are_stored_one_by_one_are_the_stacked_ones(tmp_path: Path) -> None:
    facts = Facts(CONFIG, "config.json")
    laid = lay_model(find_family(None, facts).build(facts)).kinds
    skeleton = safetensors.plan_skeleton([spec for each in laid for spec in one_by_one(each.name, each.shape)])
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "hf" / "model.safetensors").write_bytes(skeleton.segments[0][1].ljust(skeleton.size_bytes, b"\0"))
    source = {"format": "huggingface", "path": str(tmp_path / "hf")}
    plan = make_plan({"source": source, "target": {"format": "huggingface", "path": str(tmp_path / "to")}})
    assert plan.model_type == "gemma4"
    names = {tensor.name for _, skeleton in plan.new_files() for tensor in skeleton.tensors}
    assert "model.layers.1.experts.gate_up_proj" in names
