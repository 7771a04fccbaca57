"""What can be done with a family, as the declarations say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convsvc.cli.main import main
from convsvc.dialects.family_matrix import matrix
from convsvc.families import FAMILIES

README = Path(__file__).parents[2] / "docs" / "families" / "README.md"


@pytest.fixture(scope="module")
def records() -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in matrix()}


def test_every_family_has_a_record_and_a_row(records: dict[str, dict[str, Any]]) -> None:
    assert set(records) == set(FAMILIES)
    text = README.read_text()
    assert [name for name in FAMILIES if f"]({name}.md): `{name}` |" not in text] == []


def test_places_are_those_that_plans_find(records: dict[str, dict[str, Any]]) -> None:
    have = {name: {each for each, ways in record["formats"].items() if ways} for name, record in records.items()}
    assert have["llama2"] >= {"huggingface", "mindspeed-llm", "megatron", "mindformers", "dcp"}
    assert "mindspeed-mm" not in have["llama2"]
    assert not have["bloom"] & {"mindspeed-llm", "megatron", "mindformers", "mindspeed-mm"}
    assert "mindspeed-mm" in have["qwen2-vl"]
    assert "mindspeed-llm" in have["gemma2"]
    assert "megatron" not in have["gemma2"]
    assert records["bloom"]["formats"]["huggingface"] == ["in", "out"]
    assert have["wan"] >= {"diffusers"}
    assert "huggingface" not in have["wan"]


def test_four_bits_are_written_of_models_of_experts_only(records: dict[str, dict[str, Any]]) -> None:
    assert records["llama2"]["writes"] == ["fp8-block"]
    assert {"fp8-block", "int4", "mxfp4"} <= set(records["deepseek3"]["writes"])
    assert records["deepseek3"]["mtp"]
    assert not records["llama2"]["mtp"]
    assert "nvfp4" in records["llama2"]["reads"]


def test_families_are_listed_with_their_places(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bloom "))
    assert "huggingface" in line
    assert "dcp" in line
    assert "mindspeed-llm" not in line
    assert main(["families", "--json"]) == 0
    assert {"formats", "reads", "writes", "lora", "judged_by"} <= set(json.loads(capsys.readouterr().out)[0])
