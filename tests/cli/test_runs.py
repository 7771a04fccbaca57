"""The commands for whole runs: watch-dir, watches, submit --batch, batches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convsvc.service.app import create_app
from convsvc.service.serve import http_config
from convsvc.service.settings import Settings
from tests.service.listening import listening


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/convsvc.db")
    with listening(http_config(create_app(settings), "127.0.0.1", 0)) as url:
        yield url


def convsvc(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convsvc.cli.main", *words, "--url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def said(url: str, *words: str) -> Any:
    done = convsvc(url, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_is_watched_listed_shown_and_watched_no_longer(service: str) -> None:
    job = ["--source-format", "mindspeed-llm", "--target", "/out/{iteration}", "--target-format", "huggingface"]
    made = convsvc(service, "watch-dir", "/runs/a", *job, "--every", "100", "--keep", "2", "--name", "a", "--oldest-first")
    assert made.returncode == 0, made.stderr
    watch = made.stdout.strip()
    listed = said(service, "watches")
    assert [one["id"] for one in listed] == [watch]
    assert {key: listed[0]["spec"][key] for key in ("every", "keep", "order")} == {"every": 100, "keep": 2, "order": "oldest"}
    assert said(service, "watches", watch)["seen"] == []
    assert "/runs/a" in convsvc(service, "watches").stdout
    assert convsvc(service, "watches", watch, "--remove").stdout == f"removed {watch}: /runs/a is watched no longer\n"
    gone = convsvc(service, "watches", watch)
    assert (gone.returncode, "no such watch" in gone.stderr) == (8, True)


def test_a_watch_that_cannot_be_is_the_command_lines_fault(service: str) -> None:
    done = convsvc(
        service, "watch-dir", "/runs/a", "--source-format", "mindspeed-llm", "--target", "/out", "--target-format", "huggingface"
    )
    assert (done.returncode, "no {iteration} in it" in done.stderr) == (2, True)
    assert convsvc(service, "watches", "--remove").returncode == 2


def test_a_batch_is_submitted_shown_canceled_and_its_end_is_the_exit_status(service: str, tmp_path: Path) -> None:
    job = {"source": {"format": "huggingface"}, "target": {"format": "mindspeed-llm", "path": "/out/{source}"}}
    file = tmp_path / "batch.json"
    file.write_text(json.dumps({"job": job, "sources": [{"path": "/hf/a"}, {"path": "/hf/b"}]}))
    batch = convsvc(service, "submit", "--batch", str(file), "--priority", "3").stdout.strip()
    shown = said(service, "batches", batch)
    assert [(one["state"], one["target"]) for one in shown["jobs"]] == [("queued", "/out/a"), ("queued", "/out/b")]
    assert [one["id"] for one in said(service, "batches")] == [batch]
    assert "/out/b" in convsvc(service, "batches", batch).stdout
    after = said(
        service,
        "submit",
        "--source",
        "/out/a",
        "--source-format",
        "mindspeed-llm",
        "--target",
        "/x",
        "--target-format",
        "huggingface",
        "--after",
        shown["jobs"][0]["id"],
    )
    assert (after["state"], after["spec"]["after"]) == ("blocked", [shown["jobs"][0]["id"]])
    assert said(service, "batches", batch, "--cancel")["state"] == "canceled"
    assert convsvc(service, "batches", batch, "--wait").returncode == 7
    again = convsvc(service, "submit", "--batch", str(file), "--watch", "--set", "sources=[]")
    assert again.returncode == 2
    assert convsvc(service, "batches", "--wait").returncode == 2
