"""Casts change values in the open: what overflows is an error with names and counts, the rest is said; what was special stays so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.engine.listener import Listener
from convsvc.errors import JobError, PlanError
from tests.plan.test_quantised import QUANTISATION, Tensors, job, rank_tensors, save, twins
from tests.tiny_checkpoints import write_llama

DOWN, NORM = "model.layers.1.mlp.down_proj.weight", "model.norm.weight"
HUGE = {DOWN: [70000.0, -1e30, 65519.0, 65504.0, float("inf"), float("nan")], NORM: [65536.0]}


def llama_with(path: Path, values: dict[str, list[float]], dtype: torch.dtype = torch.float32) -> tuple[Path, Tensors]:
    """A tiny Llama of this dtype whose tensors begin with these values; and its tensors."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(write_llama(path) / "model.safetensors").items()}
    for name, first in values.items():
        tensors[name].view(-1)[: len(first)] = torch.tensor(first, dtype=dtype)
    save_file(tensors, path / "model.safetensors")
    return path, tensors


def to_ranks(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    layout = {"tensor_parallel_size": 2}
    return {
        "source": {"format": "huggingface", "path": str(source)},
        "target": {"format": "mindspeed-llm", "path": str(target), **layout},
        "options": options,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_finite_values_that_become_infinite_are_an_error_with_their_tensors_and_counts(dtype: torch.dtype, tmp_path: Path) -> None:
    values = {DOWN: [70000.0, -1e30, 65280.0, float("inf"), float("nan")], NORM: [65536.0]}
    source, _ = llama_with(tmp_path / "hf", values, dtype)
    with pytest.raises(PlanError, match="3 finite values become infinite in F16") as caught:
        convert(to_ranks(source, tmp_path / "mg", dtype="fp16"), engine="inline")
    # The final norm is written to every tensor rank, and counted once.
    assert caught.value.details == {"overflows": {DOWN: 2, NORM: 1}}
    assert any(f"{DOWN} (" in fact and fact.endswith(": 2") for fact in caught.value.facts)
    assert "on_overflow" in str(caught.value)
    assert not (tmp_path / "mg").exists()


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_where_it_is_allowed_it_is_said(engine: str, tmp_path: Path) -> None:
    source, tensors = llama_with(tmp_path / "hf", HUGE)
    result = convert(to_ranks(source, tmp_path / "mg", dtype="fp16", on_overflow="note"), engine=engine, workers=1)
    (note,) = [note for note in result.notes if note.kind == "lost"]
    assert f"{DOWN} (F32, in " in note.text
    written = rank_tensors(tmp_path / "mg")
    (first, second) = [ranks["decoder.layers.1.mlp.linear_fc2.weight"] for ranks in written.values()]
    assert torch.equal(torch.cat([first, second], 1).nan_to_num(7), tensors[DOWN].half().nan_to_num(7))
    assert json.loads(json.dumps(result.as_dict()))["notes"][0] == note.as_dict()


def test_what_was_infinite_or_no_number_before_stays_and_is_no_fault(tmp_path: Path) -> None:
    source, tensors = llama_with(tmp_path / "hf", {DOWN: [float("inf"), float("-inf"), float("nan"), 65519.9]})
    result = convert(to_ranks(source, tmp_path / "mg", dtype="fp16"), engine="inline")
    assert {note.kind for note in result.notes} == {"changed"}
    first = next(iter(rank_tensors(tmp_path / "mg").values()))["decoder.layers.1.mlp.linear_fc2.weight"]
    assert torch.equal(first.view(-1)[:2], tensors[DOWN].half().view(-1)[:2])
    assert first.view(-1)[2].isnan()
    assert first.view(-1)[3] == 65504


@pytest.mark.parametrize(("dtype", "words"), [("fp32", "BF16 to F32: every value is kept"), ("fp16", "BF16 to F16: rounded")])
def test_a_cast_is_said(dtype: str, words: str, tmp_path: Path) -> None:
    result = convert(to_ranks(write_llama(tmp_path / "hf"), tmp_path / "mg", dtype=dtype), engine="inline")
    assert [note.kind for note in result.notes if words in note.text] == ["changed"]


def test_what_a_task_said_before_a_run_broke_off_is_said_by_the_run_that_goes_on(tmp_path: Path) -> None:
    source, _ = llama_with(tmp_path / "hf", HUGE)

    class Impatient(Listener):
        def phase(self, name: str, tasks: int) -> None:
            if name == "verify":
                raise RuntimeError("broken off")

    again = to_ranks(source, tmp_path / "mg", dtype="fp16", on_overflow="note", on_exists="resume")
    with pytest.raises(RuntimeError, match="broken off"):
        convert(again, engine="inline", listener=Impatient())
    result = convert(again, engine="inline")
    assert result.tasks_done == 0
    assert [note.kind for note in result.notes].count("lost") == 1


def test_float8_is_dequantised_to_what_the_job_wants_and_rounded_once(tmp_path: Path) -> None:
    quantised, _ = twins()
    fp8 = save(tmp_path / "fp8", quantised, QUANTISATION)
    exact = {}
    for name, tensor in quantised.items():
        scales = quantised.get(name + "_scale_inv")
        if name.endswith("_scale_inv"):
            continue
        rows, columns = tensor.shape if tensor.ndim == 2 else (1, 1)
        factors = 1 if scales is None else scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
        exact[name] = tensor.float() * factors
    for dtype, wanted in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        twin = save(tmp_path / f"twin-{dtype}", {name: tensor.to(wanted) for name, tensor in exact.items()}, None)
        convert(job(fp8, tmp_path / dtype, dtype=dtype), engine="inline")
        convert(job(twin, tmp_path / f"{dtype}-want"), engine="inline")
        have, want = rank_tensors(tmp_path / dtype), rank_tensors(tmp_path / f"{dtype}-want")
        assert all(torch.equal(have[rank][name], tensor) for rank in want for name, tensor in want[rank].items()), dtype


def test_float8_that_overflows_fp16_is_an_error_too(tmp_path: Path) -> None:
    quantised, _ = twins()
    name = "model.layers.1.self_attn.o_proj.weight"
    quantised[f"{name}_scale_inv"][0, 0] = 1e4
    source = save(tmp_path / "fp8", quantised, QUANTISATION)
    with pytest.raises(PlanError, match="become infinite in F16") as caught:
        convert(job(source, tmp_path / "a", dtype="fp16"), engine="inline")
    assert set(caught.value.details["overflows"]) == {name}
    convert(job(source, tmp_path / "b", dtype="bf16"), engine="inline")


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", None])
def test_the_way_back_is_refused_for_float8_without_its_scales_whatever_it_becomes(dtype: str | None, tmp_path: Path) -> None:
    quantised, _ = twins()
    source = save(tmp_path / "fp8", quantised, QUANTISATION)
    options = {"verify": "roundtrip", "carry_scales": False} | ({"dtype": dtype} if dtype else {})
    with pytest.raises(JobError, match="verify is roundtrip, but"):
        convert(job(source, tmp_path / "a", **options), engine="inline")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.v_proj.weight", NORM])
def test_the_way_back_is_refused_whichever_part_loses_bits(name: str, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "hf")
    tensors = load_file(source / "model.safetensors")
    save_file(tensors | {name: tensors[name].float()}, source / "model.safetensors")
    with pytest.raises(JobError, match="verify is roundtrip, but"):
        convert(to_ranks(source, tmp_path / "a", dtype="bf16", verify="roundtrip"), engine="inline")
