"""A job from a file, stdin, flags, and all of them together."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from convsvc.cli.job_file import job_from
from convsvc.errors import JobError

NO_FLAGS: dict[str, Any] = dict.fromkeys(["job_file", "source", "source_format", "target", "target_format"]) | {"sets": ()}


def make(**flags: Any) -> dict[str, Any]:
    return job_from(**{**NO_FLAGS, **flags})


def test_flags_alone_make_a_job() -> None:
    job = make(
        source="/in",
        source_format="huggingface",
        target="/out",
        target_format="mindspeed-llm",
        sets=["target.tensor_parallel_size=2"],
    )
    assert job == {
        "source": {"path": "/in", "format": "huggingface"},
        "target": {"path": "/out", "format": "mindspeed-llm", "tensor_parallel_size": 2},
    }


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("source: {format: huggingface, path: /in}\ntarget: {format: mindspeed-llm, path: /old}\n")
    job = make(job_file=str(file), target="/new", sets=["options.verify=roundtrip", "target.noop_layers=[0, 7]"])
    assert job["source"]["path"] == "/in"
    assert job["target"] == {"format": "mindspeed-llm", "path": "/new", "noop_layers": [0, 7]}
    assert job["options"] == {"verify": "roundtrip"}


def test_paths_on_the_command_line_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert make(source="in")["source"]["path"] == str(tmp_path / "in")


def test_a_dash_reads_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"name": "x"}'))
    assert make(job_file="-") == {"name": "x"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({}, "there is no job"),
        ({"sets": ["target"]}, "not KEY=VALUE"),
        ({"sets": ["name=x", "name.y=1"]}, "is not an object"),
        ({"job_file": "/nonexistent"}, "No such file"),
    ],
)
def test_mistakes_are_job_errors(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        make(**flags)


@pytest.mark.parametrize(("text", "says"), [("[1]", "is an object"), ("{a: [", "neither JSON nor YAML"), ("\x00\x01", "neither")])
def test_a_file_that_is_no_job_is_told_by_name(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(text)
    with pytest.raises(JobError, match=says) as told:
        make(job_file=str(file))
    assert str(file) in told.value.message
