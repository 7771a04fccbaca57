"""What is told of many tasks is one change of the job store, written once however often it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from convsvc.service.executor import runner
from convsvc.service.executor.runner import StoreListener
from convsvc.service.store.claims import Claim, Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.ledger import Failed, Finished, Started, Word
from convsvc.service.store.tallies import read_tallies
from convsvc.service.store.task_logs import ended_attempt
from convsvc.spec import parse_job

RESULT = {"bytes_read": 10, "bytes_written": 10, "seconds": 0.1, "worker": "w"}


@pytest.fixture
def claim(store: Store, claims: Claims, a_job: Callable[..., dict[str, Any]]) -> Claim:
    store.submit(parse_job(a_job()))
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(n, f"layer {n}", 100) for n in range(300)])
    return claim


def tell(listener: StoreListener, count: int) -> None:
    for number in range(count):
        listener.task_started(number, f"layer {number}", 1)
        listener.task_said(number, [{"at": 1.7e9, "level": "info", "message": "moved"}])
        listener.task_done(number, RESULT)
    listener.flush()


def test_hundreds_of_tasks_are_told_in_a_few_transactions(
    database: Database, store: Store, claims: Claims, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HOLD_S", 3600.0)
    commits: list[object] = []
    event.listen(database.engine, "commit", commits.append)
    tell(StoreListener(claims, claim), 300)  # told as if its phase were none: each is one that was looked at
    listener = StoreListener(claims, claim)
    listener.phase("write", 300)
    del commits[:]
    tell(listener, 300)
    assert len(commits) <= 1 + 1 + 600 // runner.MOST_WORDS, "the first word at once, then as many together as may be"
    job = store.job(claim.job_id)
    assert (job.progress.tasks_done, job.progress.bytes_done) == (300, 30_000)
    events = [each.data for each in store.events(claim.job_id, limit=5000) if each.kind == "task" and each.data["phase"] == "write"]
    assert [each["state"] for each in events] == ["running", "done"] * 300
    assert [each["tasks_done"] for each in events if each["state"] == "done"] == list(range(1, 301))


def test_words_that_are_told_again_count_once(database: Database, store: Store, claims: Claims, claim: Claim) -> None:
    report = ended_attempt("done", 1, [{"at": 1.7e9, "level": "info", "message": "moved"}], RESULT)
    words: list[Word] = [Started(0, 1), Finished(0, 0.1, "w", report), Started(1, 1), Failed(1, {"message": "lost"}, True, worker="v")]
    claims.told(claim, words)
    claims.told(claim, words)
    job = store.job(claim.job_id)
    assert (job.progress.tasks_done, job.progress.bytes_done) == (1, 100)
    assert [line.message for line in store.logs(claim.job_id)].count("moved") == 1
    with database.reading() as session:
        assert [value for name, _, _, value in read_tallies(session) if name == "bytes_read"] == [10]


def test_what_is_held_back_is_written_when_a_moment_has_passed_though_nothing_happens(
    store: Store, claims: Claims, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = StoreListener(claims, claim)
    listener.phase("write", 300)
    listener.task_started(0, "layer 0", 1)
    monkeypatch.setattr(runner, "HOLD_S", 3600.0)
    listener.task_done(0, RESULT)
    listener.turn()
    assert store.job(claim.job_id).progress.tasks_done == 0
    monkeypatch.setattr(runner, "HOLD_S", 0.0)
    listener.turn()
    assert store.job(claim.job_id).progress.tasks_done == 1
