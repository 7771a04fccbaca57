"""Quantised weights become, bit for bit, what the reference implementations make of them. quantised/PROVENANCE.md says whose they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from convsvc.encodings.known import ENCODINGS
from convsvc.encodings.numbers import widen
from convsvc.errors import ConvsvcError, PlanError, SourceError
from tests.encodings.weights import Stored, decoded

ROOT = Path(__file__).parent / "quantised"
CASES: dict[str, dict[str, Any]] = {each["id"]: each for each in json.loads((ROOT / "cases.json").read_text())}
QUIET = {"BF16": 0x7FC0, "F32": 0x7FC00000, "F16": 0x7E00}
# An exponent of 255 is a NaN by the standard; transformers multiplies by 2^128 ("policy").
READ = [name for name, case in CASES.items() if case["kind"] == "dequantise" and case["trust"] == "exact" and not name.startswith("bnb.")]
REFUSED = [name for name, case in CASES.items() if case["trust"] == "must_error"]


def stored(case: dict[str, Any]) -> Stored:
    return Stored((ROOT / case["source"]).read_bytes())


def digests(values: torch.Tensor, dtype: str) -> set[str]:
    """Of the bits with NaNs made alike; and with zeros made positive."""
    if dtype not in QUIET:
        return {hashlib.sha256(values.numpy().tobytes()).hexdigest()}
    bits = values.contiguous().view(torch.int32 if dtype == "F32" else torch.int16).numpy().view(np.uint32 if dtype == "F32" else np.uint16)
    bits = np.where(torch.isnan(values).numpy(), bits.dtype.type(QUIET[dtype]), bits)
    # As the corpus makes zeros positive (corpus.described), NaNs too.
    unsigned = (torch.from_numpy(bits).view(values.dtype) + 0.0).view(torch.int32 if dtype == "F32" else torch.int16).numpy()
    return {hashlib.sha256(each.tobytes()).hexdigest() for each in (bits, unsigned)}


@pytest.mark.parametrize("name", READ)
def test_a_published_weight_has_the_values_of_the_reference(name: str) -> None:
    case = CASES[name]
    assert case["tensors"]
    for wanted, (dtype, shape, *shas) in case["tensors"].items():
        weight, _, as_dtype = wanted.rpartition("|")
        for budget in (3000, 1 << 22):
            values = decoded(stored(case), weight, as_dtype, case["config"], budget=budget, shape=tuple(shape))
            assert list(values.shape) == shape
            assert dtype == as_dtype
            assert digests(values, as_dtype) & set(shas), wanted


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_weight_is_refused_in_words(name: str) -> None:
    case = CASES[name]
    whole = stored(case)
    with pytest.raises((SourceError, PlanError)) as caught:
        decoded(whole, f"{next(iter(whole.tensors)).rpartition('.')[0]}.weight", "BF16", case["config"])
    assert isinstance(caught.value, ConvsvcError)
    assert any(tensor in str(caught.value) for tensor in (*whole.tensors, "down_proj.weight"))


def test_the_corpus_is_there() -> None:
    assert len(READ) == 50
    assert len(REFUSED) == 10


CHECKPOINTS = sorted(path.name for path in (ROOT / "checkpoints").iterdir())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_whole_checkpoint_becomes_what_the_reference_loads(name: str, tmp_path: Path) -> None:
    source, target = ROOT / "checkpoints" / name, tmp_path / "bf16"
    sides = {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "huggingface", "path": str(target)}}
    convert({**sides, "options": {"verify": "digest"}}, engine="inline")
    expected = json.loads((source / "expected.json").read_text())["tensors"]
    found = {tensor: each for path in target.glob("*.safetensors") for tensor, each in load_file(path).items()}
    assert found.keys() == expected.keys()
    for tensor, (dtype, shape, *shas) in expected.items():
        assert list(found[tensor].shape) == shape
        assert digests(found[tensor], dtype) & set(shas), tensor
    words = json.loads((target / "config.json").read_text())
    assert "quantization_config" not in words
    assert not (target / "hf_quant_config.json").exists()


RULES = {"fp8-block.amax-over-448": "fp8-block", "mxfp4.ceil": "mxfp4", "int4.amax-over-7": "int4", "nvfp4.modelopt": "nvfp4"}


@pytest.mark.parametrize("rule", RULES)
def test_a_weight_is_encoded_as_the_reference_does(rule: str) -> None:
    case, writer = CASES[f"quantise.{rule}"], ENCODINGS.writers[RULES[rule]]
    source = stored(case)
    (weight,) = source.tensors.values()
    data = np.frombuffer(source.data, np.uint8, weight.size_bytes, weight.file_offset)
    values = widen(data.view(np.uint16 if weight.dtype == "BF16" else np.uint32), weight.dtype).reshape(weight.shape)
    made = writer.written("model.weight", weight.shape)
    assert made is not None
    form = made.form
    if rule.startswith("fp8"):  # the case has blocks of 16
        form = replace(form, grids=(form.grids[0], form.grids[1]._replace(rows=16, columns=16, height=1, width=6)))
    pieces = writer.encode(form, values, float(np.abs(values).max()))
    have = {name.removeprefix("model."): (part, piece) for name, part, piece in zip(made.names, made.parts, pieces, strict=True)}
    for name, (_, _, sha) in case["tensors"].items():
        _, piece = have.pop(name if name != "weight" else made.names[0].removeprefix("model."))
        assert hashlib.sha256(piece.tobytes()).hexdigest() == sha, name
    assert not have


PLACES = [
    (name, target)
    for name in CHECKPOINTS
    for target in ("dcp", "mindspeed-llm")
    if (name, target) != ("gpt_oss_mxfp4", "mindspeed-llm")  # which has no place for its biases and sinks
]


@pytest.mark.not_for_transformers  # which reads some of these forms in other ways, or not at all
@pytest.mark.parametrize(("name", "target"), PLACES)
def test_a_whole_checkpoint_comes_back_as_it_was_published(name: str, target: str, tmp_path: Path) -> None:
    source, there, back = ROOT / "checkpoints" / name, tmp_path / "there", tmp_path / "back"
    to = {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": target, "path": str(there)}}
    convert({**to, "options": {"verify": "roundtrip"}}, engine="inline")
    given = {"format": "huggingface", "path": str(back), "config_dir": str(source), "quantization": "like-source"}
    convert({"source": to["target"], "target": given, "options": {"verify": "roundtrip"}}, engine="inline")
    want, found = (
        {tensor: each for path in root.glob("*.safetensors") for tensor, each in load_file(path).items()} for root in (source, back)
    )
    assert found.keys() == want.keys()
    for tensor, each in want.items():
        assert (found[tensor].shape, found[tensor].dtype) == (each.shape, each.dtype)
        assert torch.equal(found[tensor].reshape(-1).view(torch.uint8), each.reshape(-1).view(torch.uint8)), tensor
    for words in ("config.json", "hf_quant_config.json"):
        assert not (source / words).exists() or (back / words).read_bytes() == (source / words).read_bytes()
