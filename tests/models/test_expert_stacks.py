"""Experts of tensors of no known model: each form becomes each other one, and what is in another form than said is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import PlanError, SourceError
from convsvc.models.expert_stacks import FORMS, form_of

EXPERTS, HIDDEN, FFN = 3, 4, 5
Tensors = dict[str, torch.Tensor]


def kept(form: str, folder: str = "model.layers.0.mlp.") -> Tensors:
    """The same experts in a form, written down by hand: an element says which expert, input and output it is of."""
    count = torch.arange(EXPERTS * FFN * HIDDEN, dtype=torch.float32).reshape(EXPERTS, FFN, HIDDEN)
    gate, up, down = count, count + 1000, (count + 2000).transpose(1, 2)  # [expert, out, in]
    together = torch.cat([gate, up], 1)
    if form == "separate":
        named = {"gate_proj": gate, "up_proj": up, "down_proj": down}
        return {f"{folder}experts.{at}.{name}.weight": each[at].contiguous() for name, each in named.items() for at in range(EXPERTS)}
    if form != "output_first":
        together, down = together.transpose(1, 2), down.transpose(1, 2)
    if form == "input_first_flat":
        together, down = together.reshape(-1, 2 * FFN), down.reshape(-1, HIDDEN)
    return {f"{folder}experts.gate_up_proj": together.contiguous(), f"{folder}experts.down_proj": down.contiguous()}


def run(tmp_path: Path, tensors: Tensors, before: Any, after: Any) -> Tensors:
    (tmp_path / "in").mkdir(exist_ok=True)
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    convert(
        {
            "model_type": "tensors",
            "source": {"format": "tensor-files", "path": str(tmp_path / "in"), "experts": before},
            "target": {"format": "tensor-files", "path": str(tmp_path / "out"), "experts": after},
            "options": {"on_exists": "overwrite"},
        },
        engine="inline",
    )
    return {name: each for file in sorted((tmp_path / "out").glob("*.safetensors")) for name, each in load_file(file).items()}


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("after", FORMS)
@pytest.mark.parametrize("before", FORMS)
def test_each_form_becomes_each_other_one(tmp_path: Path, before: str, after: str) -> None:
    other = {"model.norm.weight": torch.arange(4.0)}
    assert same(run(tmp_path, kept(before) | other, {"": before}, {"": after}), kept(after) | other)


def test_forms_are_said_by_what_names_begin_with(tmp_path: Path) -> None:
    tensors = kept("output_first") | kept("separate", "mtp.0.mlp.")
    said = {"": "output_first", "mtp.": "separate"}
    assert form_of("mtp.0.mlp.", said) == "separate"
    assert same(run(tmp_path, tensors, said, {"": "input_first"}), kept("input_first") | kept("input_first", "mtp.0.mlp."))


def test_without_a_word_experts_are_any_tensors(tmp_path: Path) -> None:
    assert same(run(tmp_path, kept("input_first"), None, None), kept("input_first"))
    assert same(run(tmp_path, kept("separate"), {"": "separate"}, None), kept("separate"))


@pytest.mark.parametrize("said", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_another_form_than_is_said_is_an_error(tmp_path: Path, form: str, said: str) -> None:
    if form == said:
        return
    with pytest.raises(SourceError, match="1 layers have no experts as they should be") as error:
        run(tmp_path, kept(form), {"": said}, {"": "separate"})
    assert error.value.facts[0].startswith(f"model.layers.0.mlp.experts: {said} is said; ")


@pytest.mark.parametrize("lost", ["experts.1.up_proj.weight", "experts.2.down_proj.weight", "experts.0.gate_proj.weight"])
def test_a_matrix_that_is_missing_is_an_error(tmp_path: Path, lost: str) -> None:
    tensors = kept("separate")
    del tensors[f"model.layers.0.mlp.{lost}"]
    with pytest.raises((PlanError, SourceError), match=r"missing|no experts as they should"):
        run(tmp_path, tensors, {"": "separate"}, {"": "input_first"})
    assert not (tmp_path / "out").exists()
