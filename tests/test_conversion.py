"""`convsvc.convert`, `convsvc.plan` and `verify` on real files: the library without a service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import convsvc
import convsvc.plan.records  # as soon as the folder is imported, `convsvc.plan` is the folder
from convsvc.conversion import verify
from convsvc.errors import TargetError, VerifyError
from tests.tiny_checkpoints import write_llama


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "hf")


@pytest.fixture
def job(source: Path, tmp_path: Path) -> dict[str, Any]:
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), "tensor_parallel_size": 2}
    return {"source": {"format": "huggingface", "path": str(source)}, "target": target, "options": {"verify": "roundtrip"}}


def test_converting_there_and_back_gives_the_same_tensors(job: dict[str, Any], source: Path, tmp_path: Path) -> None:
    there = convsvc.convert(job, engine="inline")
    assert there.target == str(tmp_path / "mcore")
    back = {
        "source": {"format": "mindspeed-llm", "path": job["target"]["path"]},
        "target": {"format": "huggingface", "path": str(tmp_path / "back")},
    }
    convsvc.convert(back, engine="inline")
    expected = load_file(source / "model.safetensors")
    found = {name: tensor for file in (tmp_path / "back").glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_plan_is_made_by_calling_the_package_and_nothing_is_written(job: dict[str, Any], tmp_path: Path) -> None:
    summary = convsvc.plan(job).summary()
    assert (summary["model_type"], summary["target"]["path"]) == ("llama2", str(tmp_path / "mcore"))
    assert not (tmp_path / "mcore").exists()


def test_verify_finds_nothing_wrong_with_a_good_target_and_any_changed_byte(job: dict[str, Any], tmp_path: Path) -> None:
    convsvc.convert(job, engine="inline")
    assert verify(job)["bytes_read"] > 0
    tensor = convsvc.plan(job).target_tensors[0]
    path = tmp_path / "mcore" / convsvc.plan(job).target_files[tensor.file].path
    with path.open("r+b") as file:
        file.seek(tensor.file_offset)
        byte = file.read(1)
        file.seek(tensor.file_offset)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(VerifyError):
        verify(job)


def test_verify_says_which_files_of_the_target_are_missing(job: dict[str, Any]) -> None:
    with pytest.raises(TargetError) as caught:
        verify(job)
    assert len(caught.value.facts) == 2
    assert all("is not there" in fact for fact in caught.value.facts)


def test_importing_the_package_is_instant_and_loads_nothing() -> None:
    code = "import sys, convsvc; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'ray', 'httpx', 'pydantic')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = convsvc.nothing
