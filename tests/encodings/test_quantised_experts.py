"""Experts of a quantised release in the other form: decoded to the same numbers; what cannot be, is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from convsvc.errors import JobError
from convsvc.plan.planner import make_plan
from tests.encodings.test_writing import assert_same, to_huggingface, written_in
from tests.plan.test_quantised import QUANTISATION, save, twins

GPT_OSS = Path(__file__).parents[1] / "golden" / "quantised" / "checkpoints" / "gpt_oss_mxfp4"


def test_float8_experts_one_by_one_become_all_in_one_tensor_and_come_back(tmp_path: Path) -> None:
    quantised, plain = twins()
    source = {"format": "huggingface", "path": str(save(tmp_path / "fp8", quantised, QUANTISATION))}
    convert(to_huggingface(source, tmp_path / "fused", experts="fused"), engine="inline")
    fused, at = written_in(tmp_path / "fused"), "model.layers.0.mlp.experts."
    for expert in range(4):
        parts = [plain[f"{at}{expert}.{name}_proj.weight"] for name in ("gate", "up")]
        assert torch.equal(fused[at + "gate_up_proj"][expert], torch.cat(parts))
        assert torch.equal(fused[at + "down_proj"][expert], plain[f"{at}{expert}.down_proj.weight"])
    again = {"format": "huggingface", "path": str(tmp_path / "fused")}
    convert(to_huggingface(again, tmp_path / "apart", experts="per-expert"), engine="inline")
    assert_same(written_in(tmp_path / "apart"), plain)


def test_a_release_whose_experts_lay_otherwise_is_not_what_was_published(tmp_path: Path) -> None:
    source = {"format": "huggingface", "path": str(save(tmp_path / "fp8", twins()[0], QUANTISATION))}
    with pytest.raises(JobError, match="weights are no longer what was published") as caught:
        make_plan(to_huggingface(source, tmp_path / "fused", experts="fused", quantization="like-source"))
    assert "experts.0.gate_proj.weight" in str(caught.value)
    assert "with the experts as they were published" in str(caught.value)


def test_experts_of_gpt_oss_are_never_one_by_one_and_their_blocks_come_back(tmp_path: Path) -> None:
    source = {"format": "huggingface", "path": str(GPT_OSS)}
    with pytest.raises(JobError, match="keeps experts all in one tensor"):
        make_plan(to_huggingface(source, tmp_path / "apart", experts="per-expert"))
    convert(to_huggingface(source, tmp_path / "same", experts="fused", quantization="like-source"), engine="inline")
    want = {name: each for path in GPT_OSS.glob("*.safetensors") for name, each in load_file(path).items()}
    assert_same(written_in(tmp_path / "same"), want)
