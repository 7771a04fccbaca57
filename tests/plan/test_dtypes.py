"""A target tensor's dtype is that of the source's elements it is made of, not that of everything with the same logical name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import JobError, PlanError
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama

ODD = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A mixture of experts, one projection of one expert in float32."""
    path = write_llama(tmp_path / "hf")
    config = json.loads((path / "config.json").read_text())
    more = {"num_experts": 4, "moe_intermediate_size": 8, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_experts_per_tok": 2}
    config |= {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "head_dim": 4, **more}
    (path / "config.json").write_text(json.dumps(config))
    weights = {name: value for name, value in load_file(path / "model.safetensors").items() if ".mlp." not in name}
    for layer in (f"model.layers.{n}." for n in range(2)):
        weights |= {f"{layer}self_attn.{side}_norm.weight": torch.ones(4).bfloat16() for side in "qk"}
        weights[f"{layer}mlp.gate.weight"] = torch.randn(4, 16).bfloat16()
        for expert in range(4):
            for name, shape in (("gate_proj", (8, 16)), ("up_proj", (8, 16)), ("down_proj", (16, 8))):
                weights[f"{layer}mlp.experts.{expert}.{name}.weight"] = torch.randn(shape).bfloat16()
    weights[ODD] = torch.randn(8, 16)
    save_file(weights, path / "model.safetensors")
    return path


def job(source: Path, target: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"source": {"format": "huggingface", "path": str(source)}, "target": target, "options": options}


def test_one_expert_in_float32_stays_so_and_leaves_the_others_alone(source: Path, tmp_path: Path) -> None:
    convert(job(source, {"format": "huggingface", "path": str(tmp_path / "out")}, verify="roundtrip"), engine="inline")
    have = {key: value for file in (tmp_path / "out").glob("*.safetensors") for key, value in load_file(file).items()}
    want = load_file(source / "model.safetensors")
    assert {name for name, value in have.items() if value.dtype == torch.float32} == {ODD}
    assert all(torch.equal(have[name], want[name]) for name in want)


def test_what_would_be_made_of_both_is_named_and_nothing_else(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="1 target tensors would mix dtypes") as caught:
        make_plan(job(source, {"format": "mindspeed-llm", "path": str(tmp_path / "out")}))
    (fact,) = caught.value.facts
    assert "local_experts.2.linear_fc1" in fact
    assert ODD in fact


def test_a_way_back_is_refused_for_the_part_that_is_cast_whichever_it_is(source: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"linear_fc1.* \(F32 to BF16\)"):
        convert(job(source, {"format": "mindspeed-llm", "path": str(tmp_path / "out")}, dtype="bf16", verify="roundtrip"), engine="inline")
