"""A checkpoint that is quantised in a way that is not read is called that, in the error's first line; integers are no weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.errors import JobError, SourceError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama

Parts = dict[str, torch.Tensor]
Make = Callable[[int, int], Parts]


def zeros(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


BYTE, HALF, REAL, FLOAT8 = torch.uint8, torch.float16, torch.float32, torch.float8_e4m3fn
# What stands beside `X.` for a weight [out, in], as the tools write it (see docs/quantised-checkpoints.md).
KINDS: dict[str, Make] = {
    "NF4 of bitsandbytes": lambda o, i: {
        "weight": zeros(BYTE, o * i // 2, 1), "weight.absmax": zeros(BYTE, 4), "weight.quant_map": zeros(REAL, 16),
        "weight.quant_state.bitsandbytes__nf4": zeros(BYTE, 90)},
    "int8 of bitsandbytes": lambda o, i: {"weight": zeros(torch.int8, o, i), "SCB": zeros(REAL, o), "weight_format": zeros(BYTE)},
    "int8": lambda o, i: {"weight": zeros(torch.int8, o, i), "weight_scale": zeros(REAL, o, 1)},
    "MLX": lambda o, i: {"weight": zeros(torch.uint32, o, i // 8), "scales": zeros(HALF, o, 1), "biases": zeros(HALF, o, 1)},
    "float8 under Mistral's own names": lambda o, i: {"weight": zeros(FLOAT8, o, i), "qscale_weight": zeros(REAL)},
    "HQQ": lambda o, i: {"W_q": zeros(BYTE, o, i // 2), "meta": zeros(REAL, 1)},
}  # fmt: skip


def quantised(tmp_path: Path, make: Make, **config: Any) -> Path:
    path = write_llama(tmp_path / "hf")
    held: Parts = {}
    for name, tensor in load_file(path / "model.safetensors").items():
        module = name.removesuffix("weight")
        is_quantised = "_proj" in name
        held |= {module + part: each for part, each in make(*tensor.shape).items()} if is_quantised else {name: tensor.clone()}
    save_file(held, path / "model.safetensors")
    written = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(written | config))
    return path


def job(path: Path) -> dict[str, Any]:
    return {"source": {"format": "huggingface", "path": str(path)}, "target": {"format": "mindspeed-llm", "path": str(path) + "-mcore"}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_line_says_how_the_weights_are_quantised(kind: str, tmp_path: Path) -> None:
    path = quantised(tmp_path, KINDS[kind])
    with pytest.raises(SourceError) as caught:
        make_plan(job(path))
    assert caught.value.message == f"{path} is quantised: {kind}, which is not read"
    assert caught.value.facts[0].startswith(f"{kind}: 14 weights, e.g. model.layers.")
    assert "every file was fetched" not in str(caught.value)
    assert f"is quantised: {kind}" in inspect_checkpoint(str(path))["problem"]


def test_that_a_model_is_not_known_is_said_before_how_it_is_quantised(tmp_path: Path) -> None:
    path = quantised(tmp_path, KINDS["MLX"], architectures=["UnheardOfForCausalLM"], model_type="unheard_of")
    with pytest.raises(JobError, match="shows no known model family"):
        make_plan(job(path))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_integers_without_a_scale_are_no_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "hf")
    name = "model.layers.0.mlp.up_proj.weight"
    held = {key: each.to(dtype) if key == name else each.clone() for key, each in load_file(path / "model.safetensors").items()}
    save_file(held, path / "model.safetensors")
    with pytest.raises(SourceError, match="1 weights are stored as integers without a scale") as caught:
        make_plan(job(path))
    assert caught.value.facts[0].startswith(f"{name}: ")
