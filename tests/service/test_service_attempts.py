"""Every attempt at a task is written down, with how it ended, and no late word changes it. What a refused transition tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convsvc.service.errors import IllegalTransition, LeaseLost
from convsvc.service.store.attempts import attempts_of
from convsvc.service.store.claims import Claim, Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import AttemptRow
from convsvc.spec import parse_job

TASKS = [PlannedTask(0, "embedding", 10), PlannedTask(1, "layer 0", 20)]
LOST = {"message": "the worker died"}


@pytest.fixture
def dead(database: Database) -> Claims:
    """An executor whose leases have expired as soon as they are given."""
    return Claims(database, "dead", lease_s=-1)


@pytest.fixture
def submit(store: Store, a_job: Callable[..., Any]) -> Callable[[], str]:
    return lambda: store.submit(parse_job(a_job()))[0].id


@pytest.fixture
def rows(database: Database) -> Callable[[str], list[AttemptRow]]:
    def read(job_id: str) -> list[AttemptRow]:
        with database.writing() as session:  # whose rows can be read after its end
            return attempts_of(session, job_id)

    return read


def planned(claims: Claims) -> Claim:
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, TASKS)
    return claim


def told(rows: list[AttemptRow]) -> list[tuple[int, int, str | None]]:
    return [(row.task, row.attempt, row.outcome) for row in rows]


def test_an_attempt_is_written_when_it_begins_and_when_it_ends(
    claims: Claims, submit: Callable[[], str], rows: Callable[[str], list[AttemptRow]]
) -> None:
    job = submit()
    claim = planned(claims)
    claims.task_started(claim, 0, 1, "node-1")
    [row] = rows(job)
    assert (row.run, row.fence, row.worker, row.outcome, row.ended_at) == (1, claim.fence, "node-1", None, None)
    claims.task_failed(claim, 0, LOST, True)
    claims.task_started(claim, 0, 2)
    claims.task_done(claim, 0, worker="node-2")
    first, second = rows(job)
    assert (first.outcome, first.error) == ("failed", LOST)
    assert (second.outcome, second.worker, second.error) == ("done", "node-2", None)
    assert first.ended_at is not None
    assert first.started_at <= first.ended_at <= second.started_at


def test_a_report_that_comes_twice_makes_no_second_attempt(
    claims: Claims, submit: Callable[[], str], rows: Callable[[str], list[AttemptRow]]
) -> None:
    job = submit()
    claim = planned(claims)
    for _ in range(2):
        claims.task_started(claim, 0, 1)
    for _ in range(2):
        claims.task_done(claim, 0)
    assert told(rows(job)) == [(0, 1, "done")]


def test_a_task_that_was_not_seen_to_start_has_an_attempt_all_the_same(
    claims: Claims, submit: Callable[[], str], rows: Callable[[str], list[AttemptRow]]
) -> None:
    job = submit()
    claim = planned(claims)
    for _ in range(2):
        claims.task_done(claim, 1, worker="node-1")
    assert told(rows(job)) == [(1, 1, "done")]


def test_an_attempt_that_is_followed_by_another_without_a_word_is_lost(
    claims: Claims, submit: Callable[[], str], rows: Callable[[str], list[AttemptRow]]
) -> None:
    job = submit()
    claim = planned(claims)
    claims.task_started(claim, 0, 1)
    claims.task_started(claim, 0, 2)
    assert told(rows(job)) == [(0, 1, "lost"), (0, 2, None)]


def test_renewing_the_jobs_lease_renews_that_of_its_running_attempts_alone(
    claims: Claims, submit: Callable[[], str], rows: Callable[[str], list[AttemptRow]]
) -> None:
    job = submit()
    claim = planned(claims)
    claims.task_started(claim, 0, 1)
    claims.task_done(claim, 0)
    claims.task_started(claim, 1, 1)
    before = {row.task: row for row in rows(job)}
    claims.renew(claim)
    after = {row.task: row for row in rows(job)}
    assert (after[0].lease_until, after[0].heartbeat_at) == (before[0].lease_until, before[0].heartbeat_at)
    assert after[1].lease_until > before[1].lease_until
    assert after[1].heartbeat_at > before[1].heartbeat_at


def test_the_attempts_of_an_executor_that_died_are_lost_and_new_ones_have_a_new_fence(
    dead: Claims, claims: Claims, submit: Callable[[], str], rows: Callable[[str], list[AttemptRow]]
) -> None:
    job = submit()
    old = planned(dead)
    dead.task_started(old, 0, 1)
    dead.task_started(old, 1, 1)
    new = planned(claims)
    claims.task_started(new, 0, 1)
    found = {(row.task, row.fence): row.outcome for row in rows(job)}
    assert found == {(0, old.fence): "lost", (1, old.fence): "lost", (0, new.fence): None}


@pytest.mark.parametrize("how", ["fail", "stop", "release"])
def test_no_attempt_stays_open_when_its_job_is_let_go(
    how: str, store: Store, claims: Claims, submit: Callable[[], str], rows: Callable[[str], list[AttemptRow]]
) -> None:
    job = submit()
    claim = planned(claims)
    claims.task_started(claim, 0, 1)
    if how == "stop":
        store.cancel(job)
    claims.fail(claim, LOST) if how == "fail" else getattr(claims, how)(claim)
    assert told(rows(job)) == [(0, 1, "lost")]


def test_a_late_worker_with_an_old_fence_cannot_complete_fail_or_start_a_task(
    store: Store, dead: Claims, claims: Claims, submit: Callable[[], str], rows: Callable[[str], list[AttemptRow]]
) -> None:
    job = submit()
    old = planned(dead)
    dead.task_started(old, 0, 1)
    new = planned(claims)
    claims.task_started(new, 0, 1)
    before = told(rows(job)), store.tasks(job), store.job(job).progress
    for late in (
        lambda: dead.task_done(old, 0, worker="late"),
        lambda: dead.task_failed(old, 0, LOST, True),
        lambda: dead.task_started(old, 0, 2),
        lambda: dead.renew(old),
    ):
        with pytest.raises(LeaseLost):
            late()
    assert (told(rows(job)), store.tasks(job), store.job(job).progress) == before


def test_attempts_of_earlier_runs_are_kept(
    claims: Claims, store: Store, submit: Callable[[], str], rows: Callable[[str], list[Any]]
) -> None:
    job = submit()
    for _ in range(2):
        claim = planned(claims)
        claims.task_started(claim, 0, 1)
        claims.task_failed(claim, 0, LOST, False)
        claims.fail(claim, LOST)
        store.retry(job)
    assert [(row.run, row.task, row.outcome) for row in rows(job)] == [(1, 0, "failed"), (2, 0, "failed")]


def test_a_refused_transition_tells_what_happened_to_the_job(store: Store, claims: Claims, submit: Callable[[], str]) -> None:
    job = submit()
    claim = planned(claims)
    claims.succeed(claim, {})
    with pytest.raises(IllegalTransition, match="is succeeded: cannot cancel it") as caught:
        store.cancel(job)
    history = caught.value.details["history"]
    assert [(step["state"], step["event"]) for step in history] == [
        ("queued", "submitted"),
        ("planning", "claim"),
        ("running", "planned"),
        ("succeeded", "succeed"),
    ]
    assert [step["seq"] for step in history] == sorted(step["seq"] for step in history)
    assert caught.value.facts[-1] == f"{history[-1]['at']} succeeded (succeed)"
    assert caught.value.details["possible"] == []
