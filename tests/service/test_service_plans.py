"""A dry run on the service says whatever would make the job fail as things are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from convsvc.cli.main import main
from convsvc.client import Client
from convsvc.execute.staging import room
from convsvc.service.settings import Settings


@pytest.fixture
def job(source: Path, tmp_path: Path) -> dict[str, Any]:
    return {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "mindspeed-llm", "path": str(tmp_path / "out")}}


def planned(url: str, job: dict[str, Any], tmp_path: Path, *words: str) -> int:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job))
    return main(["plan", str(file), "--on-service", "--url", url, *words])


def test_a_job_that_would_succeed_has_no_problems(
    settings: Settings, serve_app: Any, job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_app(settings) as url:
        assert planned(url, job, tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_a_target_that_is_there_ends_a_dry_run_as_it_would_end_the_job(
    settings: Settings, serve_app: Any, job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.csv").write_text("precious")
    with serve_app(settings) as url, Client(url) as client:
        assert [problem.type for problem in client.plan(job).problems] == ["TargetExists"]
        assert planned(url, job, tmp_path) == 4
        shown = capsys.readouterr()
        assert "fingerprint" in shown.out
        assert "exists and is not empty" in shown.err
        assert planned(url, job, tmp_path, "--json") == 4
        assert json.loads(capsys.readouterr().out)["problems"][0]["do"].startswith("choose another target")


def test_every_problem_is_said_and_a_target_that_another_job_has_comes_first(
    settings: Settings,
    serve_app: Any,
    job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(room, "_free", lambda directory: 1000)
    with serve_app(settings) as url, Client(url) as client:
        holder = client.submit(job).id
        answer = httpx.post(f"{url}/plans", json=job).json()
        assert [problem["type"] for problem in answer["problems"]] == ["TargetBusy", "NoSpace"]
        assert f"is the target of job {holder}" in answer["problems"][0]["message"]
        assert planned(url, job, tmp_path) == 4
    said = capsys.readouterr().err
    assert holder in said
    assert "1000 B free" in said
