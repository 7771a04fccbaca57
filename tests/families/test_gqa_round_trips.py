"""Families with grouped-query attention through real files: to one Megatron layout, to another, and back, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.dialects.huggingface.layout import lay_model as layout
from convsvc.errors import PlanError
from convsvc.families import FAMILIES, Facts
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from tests.families.tiny_configs import DIFFERENCES, config
from tests.golden.outputs import load_rank_file

FIRST = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
SECOND = {"tensor_parallel_size": 4, "pipeline_parallel_size": 1}
FIRST_EXPERTS = {"expert_parallel_size": 2, "moe_grouped_gemm": True}
SECOND_EXPERTS = {"expert_parallel_size": 4, "expert_tensor_parallel_size": 1}
Names = Callable[[str], bool]
# A router's bias is float32 in a bfloat16 model.
IS_FLOAT32 = ("e_score_correction_bias", "expert_bias")


def write_model(family: str, directory: Path, leave_out: Names = lambda name: False, *, copies: bool = True) -> dict[str, torch.Tensor]:
    """A model with a value of its own in every tensor; what an MTP layer repeats is a copy, unless `copies` is false."""
    directory.mkdir()
    values = config(family)
    model = FAMILIES[family].build(Facts(values, "config.json"))
    tensors = {}
    for number, laid in enumerate(layout(model).kinds):
        if laid.written and not leave_out(laid.name):
            dtype = torch.float32 if laid.name.endswith(IS_FLOAT32) else torch.bfloat16
            tensors[laid.name] = torch.randn(laid.shape, generator=torch.Generator().manual_seed(number)).to(dtype)
    for name in tensors:
        if copies and name.startswith(f"model.layers.{values['num_hidden_layers']}."):
            copied = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}
            original = next((copied[each] for each in copied if name.endswith(each)), name)
            tensors[name] = tensors[original].clone()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(values))
    return tensors


def to_megatron(source: Path, source_format: str, target: Path, settings: dict[str, Any]) -> Plan:
    job = {
        "source": {"format": source_format, "path": str(source)},
        "target": {"format": "mindspeed-llm", "path": str(target), **settings},
        "options": {"verify": "roundtrip"},
    }
    convert(job, engine="inline")
    return make_plan({**job, "options": {"on_exists": "overwrite"}})


def to_huggingface(source: Path, target: Path) -> dict[str, torch.Tensor]:
    convert(
        {
            "source": {"format": "mindspeed-llm", "path": str(source)},
            "target": {"format": "huggingface", "path": str(target)},
            "options": {},
        },
        engine="inline",
    )
    return {name: tensor for file in sorted(target.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def differing(want: dict[str, torch.Tensor], have: dict[str, torch.Tensor]) -> list[str]:
    return sorted(want.keys() ^ have.keys()) or [
        name for name, tensor in want.items() if tensor.dtype != have[name].dtype or not torch.equal(tensor, have[name])
    ]


def settings(family: str, at: int) -> dict[str, Any]:
    values = config(family)
    chosen = dict((FIRST, SECOND)[at])
    if "num_experts_per_tok" in values:
        chosen |= (FIRST_EXPERTS, SECOND_EXPERTS)[at]
    return chosen | {"mtp_num_layers": values.get("num_nextn_predict_layers", 0)}


@pytest.mark.parametrize("family", sorted(set(DIFFERENCES) - {"llama2"}))
def test_through_two_layouts_and_back_is_the_identity(family: str, tmp_path: Path) -> None:
    tensors = write_model(family, tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "first", settings(family, 0))
    to_megatron(tmp_path / "first", "mindspeed-llm", tmp_path / "second", settings(family, 1))
    assert differing(tensors, to_huggingface(tmp_path / "second", tmp_path / "back")) == []


@pytest.mark.parametrize("at", [0, 1])
def test_what_glms_mtp_layer_repeats_comes_back_though_it_is_no_copy(at: int, tmp_path: Path) -> None:
    tensors = write_model("glm45", tmp_path / "hf", copies=False)
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mcore", settings("glm45", at))
    assert differing(tensors, to_huggingface(tmp_path / "mcore", tmp_path / "back")) == []


def test_minimax_norms_over_all_heads_are_whole_on_every_rank(tmp_path: Path) -> None:
    tensors = write_model("minimax_m2", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mcore", {"tensor_parallel_size": 4})
    for rank in range(4):
        model = load_rank_file(tmp_path / "mcore" / "iter_0000001" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt")["model"]
        norm = model["decoder.layers.0.self_attention.q_layernorm.weight"]
        assert torch.equal(norm, tensors["model.layers.0.self_attn.q_norm.weight"])


def test_phis_biases_bear_megatrons_own_names(tmp_path: Path) -> None:
    tensors = write_model("phi3.5-moe", tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mcore", {"tensor_parallel_size": 2})
    model = load_rank_file(tmp_path / "mcore" / "iter_0000001" / "mp_rank_01" / "model_optim_rng.pt")["model"]
    for stored, hugging_face in (
        ("decoder.layers.1.input_layernorm.bias", "model.layers.1.input_layernorm.bias"),
        ("decoder.layers.1.pre_mlp_layernorm.bias", "model.layers.1.post_attention_layernorm.bias"),
        ("decoder.layers.1.self_attention.linear_proj.bias", "model.layers.1.self_attn.o_proj.bias"),
        ("decoder.final_layernorm.bias", "model.norm.bias"),
    ):
        assert torch.equal(model[stored], tensors[hugging_face])
    assert torch.equal(model["output_layer.bias"], tensors["lm_head.bias"][16:])


def is_dropped_bias(name: str) -> bool:
    return name.endswith(("o_proj.bias", "layernorm.bias", "norm.bias", "lm_head.bias"))


def test_a_phi_checkpoint_that_has_lost_its_biases_converts_and_the_plan_says_so(tmp_path: Path) -> None:
    tensors = write_model("phi3.5-moe", tmp_path / "hf", is_dropped_bias)
    plan = to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mcore", FIRST)
    said = " ".join(map(str, plan.notes))
    for name in ("decoder.layers.*.input_layernorm.bias", "decoder.layers.*.self_attention.linear_proj.bias", "output_layer.bias"):
        assert f"the source has no {name}" in said
    assert differing(tensors, to_huggingface(tmp_path / "mcore", tmp_path / "back")) == []


def test_a_bias_that_only_some_layers_have_is_a_fault_that_is_named(tmp_path: Path) -> None:
    write_model("phi3.5-moe", tmp_path / "hf", lambda name: name == "model.layers.2.self_attn.o_proj.bias")
    with pytest.raises(PlanError) as caught:
        to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mcore", FIRST)
    assert "decoder.layers.2.self_attention.linear_proj.bias" in str(caught.value)
