"""`plan`, `convert`, `verify`, `inspect` and the drop-in, on real files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convsvc.cli.convert_ckpt_v2 import main as drop_in
from convsvc.cli.main import main
from convsvc.errors import JobError, PlanError, SourceError, TargetExists, VerifyError

Captured = pytest.CaptureFixture[str]


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def same(one: Path, other: Path) -> bool:
    left, right = tensors(one), tensors(other)
    return left.keys() == right.keys() and all(left[name].view(torch.int16).equal(right[name].view(torch.int16)) for name in left)


def test_plan_says_what_would_be_done_and_writes_nothing(job_file: str, tmp_path: Path, capsys: Captured) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["plan", job_file]) == 0
    text = capsys.readouterr().out
    assert main(["plan", job_file, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["target"]["files"] == 2
    assert "model_type          llama2" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_plan_says_how_much_memory_and_room_it_takes(job_file: str, tmp_path: Path, capsys: Captured) -> None:
    assert main(["plan", job_file, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["needs"]["free_bytes_needed"] >= summary["target"]["bytes"]
    assert 64 << 20 < summary["needs"]["projected_bytes"] <= 512 << 20
    assert summary["balance"] >= 1
    assert main(["plan", job_file]) == 0
    assert re.search(r"projected_bytes +\d+\.\d MiB", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_a_job_that_may_need_more_memory_than_allowed_does_not_start(command: str, job_file: str, tmp_path: Path, capsys: Captured) -> None:
    assert main([command, job_file, "--memory-limit", "100MiB"]) == JobError.exit_code
    err = capsys.readouterr().err
    assert "the memory limit is 100 MiB" in err
    assert not (tmp_path / "mcore").exists()
    assert main([command, job_file, "--memory-limit", "2GB"]) == 0


def test_a_memory_limit_that_is_no_size_is_told(job_file: str, capsys: Captured) -> None:
    assert main(["plan", job_file, "--memory-limit", "much"]) == 2
    assert "'much' is no size" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_convert_goes_there_and_back(engine: str, job_file: str, checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["convert", job_file, "--engine", engine]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"converted to {tmp_path / 'mcore'}: ")
    assert "write" in captured.err
    flags = ["--source", str(tmp_path / "mcore"), "--source-format", "mindspeed-llm", "--target-format", "huggingface"]
    assert main(["convert", *flags, "--target", str(tmp_path / "again"), "--engine", engine, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == len(tensors(checkpoint))
    assert same(checkpoint, tmp_path / "again")


def test_converting_onto_something_is_refused(job_file: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "mcore").mkdir()
    (tmp_path / "mcore/precious").touch()
    assert main(["convert", job_file, "--engine", "inline"]) == TargetExists.exit_code
    assert capsys.readouterr().err.startswith("convsvc: target exists: ")


def test_a_source_that_lacks_a_tensor_is_told_without_a_traceback(job_file: str, checkpoint: Path, capsys: Captured) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert main(["convert", job_file]) == PlanError.exit_code
    err = capsys.readouterr().err
    assert "layers.2" in err
    assert "Traceback" not in err


def test_verify_finds_a_changed_byte(job_file: str, tmp_path: Path, capsys: Captured) -> None:
    assert main(["convert", job_file, "--engine", "inline"]) == 0
    assert main(["verify", job_file]) == 0
    assert "holds what" in capsys.readouterr().out
    path = next((tmp_path / "mcore").rglob("*.pt"))
    data = bytearray(path.read_bytes())
    data[8192] ^= 1
    path.write_bytes(data)
    assert main(["verify", job_file]) == VerifyError.exit_code


def test_inspect_says_what_a_checkpoint_is(checkpoint: Path, capsys: Captured) -> None:
    assert main(["inspect", str(checkpoint), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["model_type"], found["layers"], found["tensors"]) == ("huggingface", "llama2", 2, 21)
    assert main(["inspect", str(checkpoint)]) == 0
    assert "tied_embeddings  no" in capsys.readouterr().out


def test_inspecting_nothing_is_an_error(capsys: Captured) -> None:
    assert main(["inspect", "/nonexistent"]) == 3
    assert "there is no such file" in capsys.readouterr().err


def test_the_drop_in_converts_there_and_back(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    there = ["--load-dir", str(checkpoint), "--save-dir", str(tmp_path / "mg"), "--model-type-hf", "llama2"]
    sizes = ["--target-tensor-parallel-size", "2", "--target-pipeline-parallel-size", "2"]
    assert drop_in([*there, *sizes]) == 0
    back = ["--load-model-type", "mg", "--save-model-type", "hf", "--load-dir", str(tmp_path / "mg"), "--model-type-hf", "llama2"]
    assert drop_in([*back, "--save-dir", str(tmp_path / "back"), "--hf-cfg-dir", str(checkpoint)]) == 0
    assert capsys.readouterr().out.count("converted ") == 2
    assert same(checkpoint, tmp_path / "back")
    assert (tmp_path / "back/config.json").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model-type-hf", "qwen3"], "qwen3"),
        (["--model-type-hf", "llama2", "--target-pipeline-parallel-size", "3"], "3"),
        (["--model-type-hf", "llama2", "--load-dir", "/nonexistent"], "/nonexistent"),
    ],
)
def test_what_the_drop_in_cannot_do_is_one_line(flags: list[str], says: str, checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    assert drop_in(["--load-dir", str(checkpoint), "--save-dir", str(tmp_path / "mg"), *flags]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "mg").exists()


def test_a_job_may_come_from_stdin(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(job)))
    assert main(["plan", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_type"] == "llama2"


def test_plan_says_which_tensor_goes_where(job_file: str, capsys: Captured) -> None:
    assert main(["plan", job_file, "--tensors", "*layers.0.mlp.up_proj*", "--json"]) == 0
    (move,) = json.loads(capsys.readouterr().out)
    assert move["source"]["name"] == "model.layers.0.mlp.up_proj.weight"
    assert [part["boxes"][0]["ffn"] for part in move["parts"]] == [[0, 16], [16, 32]]
    assert main(["plan", job_file, "--tensors"]) == 0
    assert capsys.readouterr().out.count("model.safetensors: ") == 21
    assert main(["plan", job_file, "--tensors", "nothing"]) == JobError.exit_code
    assert "no tensor is called nothing" in capsys.readouterr().err


def test_a_source_whose_format_nobody_states_is_what_lies_there_and_that_is_told(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Each format's own fields, too: rank files of Megatron-LM are its storage torch."""
    steps = [
        (checkpoint, ["megatron", "--set", "target.storage=torch"], "huggingface"),
        (tmp_path / "0", ["mindspeed-llm"], "megatron, source.storage torch"),
        (tmp_path / "1", ["megatron"], "mindspeed-llm"),
        (tmp_path / "2", ["huggingface"], "megatron"),
    ]
    for number, (source, target, said) in enumerate(steps):
        flags = ["--source", str(source), "--target", str(tmp_path / str(number)), "--target-format", *target]
        assert main(["plan", *flags]) == 0
        assert main(["convert", *flags, "--engine", "inline"]) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "detected: " in line]
        assert [line.partition("detected: ")[2] for line in told] == [f"source.format {said}"] * 2
    assert same(checkpoint, tmp_path / "3")


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_what_is_no_checkpoint_is_not_taken_for_one(command: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "notes").mkdir()
    flags = ["--target", str(tmp_path / "out"), "--target-format", "huggingface"]
    assert main([command, "--source", str(tmp_path / "notes"), *flags]) == SourceError.exit_code
    assert "is no checkpoint of a format that is read" in capsys.readouterr().err
    assert main([command, "--source", str(tmp_path / "nowhere"), *flags]) == JobError.exit_code
    assert "source.format: is required" in capsys.readouterr().err
