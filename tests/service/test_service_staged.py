"""Bytes that unfinished jobs have staged: listed with their owners, given back, and never forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convsvc.cli.main import main
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.retention import Purged, Retention, purge
from convsvc.spec import parse_job

BYTES = 300_000


@pytest.fixture
def failed(store: Store, claims: Claims, a_job: Callable[..., Any], tmp_path: Path) -> str:
    """A job that failed after it had begun to write, in its target's own place."""
    target = tmp_path / "out"
    job, _ = store.submit(parse_job(a_job(str(target))))
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(0, "layer 0", 10)])
    claims.phase(claim, "write", 1)
    claims.fail(claim, {"message": "the disk is full"})
    staging = tmp_path / ".out.convsvc" / "iter"
    staging.mkdir(parents=True)
    (staging / "model.pt").write_bytes(b"x" * BYTES)
    return job.id


def staged(database: Database, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["staged", "--database-url", database.url, "--json", *words]) == 0
    return list(json.loads(capsys.readouterr().out))


def test_a_failed_job_is_not_forgotten_while_its_bytes_lie_there(
    store: Store, database: Database, claims: Claims, failed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert purge(database, Retention(jobs_days=0), dry_run=True) == Purged()
    assert purge(database, Retention(jobs_days=0)) == Purged()
    (found,) = staged(database, capsys)
    assert (found["job"], found["state"], found["tenant"], found["staging"]) == (
        failed,
        "failed",
        "default",
        str(tmp_path / ".out.convsvc"),
    )
    assert BYTES <= found["size_bytes"] <= 2 * BYTES
    assert staged(database, capsys, "--tenant", "another") == []
    (found,) = staged(database, capsys, "--remove", failed)
    assert found["state"] == "canceling"
    assert Executor(claims, lambda: EngineRunner("inline")).run_one(EngineRunner("inline"))
    assert store.job(failed).state == "canceled"
    assert not (tmp_path / ".out.convsvc").exists()
    assert "a retry begins anew" in store.logs(failed)[-1].message
    assert staged(database, capsys) == []
    assert purge(database, Retention(jobs_days=0)) == Purged(jobs=1)


def test_the_table_names_who_where_and_how_much(database: Database, failed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["staged", "--database-url", database.url]) == 0
    head, row, total = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["JOB", "STATE", "TENANT", "BY"]
    assert row.startswith(failed)
    assert row.endswith(".out.convsvc")
    assert total.startswith("1 job, ")


def test_what_a_running_job_has_staged_is_not_removed(
    store: Store, database: Database, claims: Claims, a_job: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    job, _ = store.submit(parse_job(a_job()))
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(0, "layer 0", 10)])
    claims.phase(claim, "write", 1)
    assert [found["size_bytes"] for found in staged(database, capsys)] == [None]
    assert main(["staged", "--database-url", database.url, "--remove", job.id]) == 2
    assert "only what a job that failed or waits has staged is removed" in capsys.readouterr().err
    assert store.job(job.id).state == "running"
