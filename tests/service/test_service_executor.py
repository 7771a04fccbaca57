"""The executor with a stand-in runner: ends of jobs, cancel, drain, lost leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from convsvc.errors import NoSpace
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import on_exists
from convsvc.service.store.changes import now_utc
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import JobRow
from convsvc.spec import parse_job

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def submit(store: Store, a_job: Make) -> Callable[..., str]:
    return lambda *given, **more: store.submit(parse_job(a_job(*given, **more)))[0].id


@contextmanager
def running(claims: Claims, runner: Any, **settings: Any) -> Iterator[Executor]:
    executor = Executor(claims, lambda: runner, beat_s=0.05, poll_s=0.02, **settings)
    thread = threading.Thread(target=executor.run)
    thread.start()
    try:
        yield executor
    finally:
        executor.drain()
        thread.join(20)
        assert not thread.is_alive()


def until(store: Store, job_id: str, *states: str) -> Any:
    deadline = time.monotonic() + 15
    while (job := store.job(job_id)).state not in states:
        assert time.monotonic() < deadline, f"the job is still {job.state}"
        time.sleep(0.01)
    return job


def test_jobs_are_run_one_after_the_other_and_keep_their_results(store: Store, claims: Claims, stand_in: Any, submit: Any) -> None:
    ids = [submit(f"/shared/{n}") for n in range(3)]
    runner = stand_in()
    with running(claims, runner):
        jobs = [until(store, job_id, "succeeded") for job_id in ids]
    assert [claim.job_id for claim in runner.claims] == ids
    assert [job.result["target"] for job in jobs] == ["/shared/0", "/shared/1", "/shared/2"]
    assert all(job.executor is None and job.ended_at >= job.started_at >= job.created_at for job in jobs)


def test_two_slots_run_two_jobs_at_once(store: Store, claims: Claims, stand_in: Any, submit: Any) -> None:
    both = threading.Barrier(2, timeout=15)  # breaks, and fails the jobs, unless two tasks wait at the same time
    ids = [submit(f"/shared/{n}") for n in range(2)]
    with running(claims, stand_in(tasks=1, before=lambda task: both.wait()), concurrency=2):
        for job_id in ids:
            until(store, job_id, "succeeded")


def test_an_error_ends_the_job_as_failed_with_its_facts(store: Store, claims: Claims, stand_in: Any, submit: Any) -> None:
    def fail(task: int) -> None:
        raise NoSpace("the disk is full", facts=["3 GiB free"], do="free some")

    job_id = submit()
    assert Executor(claims, stand_in).run_one(stand_in(before=fail))
    job = store.job(job_id)
    assert (job.state, job.error["type"], job.error["facts"]) == ("failed", "NoSpace", ["3 GiB free"])  # type: ignore[index]
    assert store.logs(job_id)[-1].message == "the disk is full\n  3 GiB free\n  do: free some"


def test_a_fault_of_ours_ends_the_job_and_not_the_executor(store: Store, claims: Claims, stand_in: Any, submit: Any) -> None:
    ids = [submit(f"/shared/{n}") for n in range(2)]
    runner = stand_in(before=lambda task: 1 / (len(runner.claims) - 1))  # type: ignore[func-returns-value]
    with running(claims, runner):
        failed, succeeded = until(store, ids[0], "failed"), until(store, ids[1], "succeeded")
    assert "ZeroDivisionError" in failed.error["message"]
    assert succeeded.error is None


def test_a_running_job_is_canceled_and_its_retry_succeeds(store: Store, claims: Claims, stand_in: Any, submit: Any) -> None:
    at_work = threading.Event()
    job_id = submit()

    def slow_at_first(task: int) -> None:
        at_work.set()
        if store.job(job_id).run == 1:
            time.sleep(0.05)

    with running(claims, stand_in(tasks=40, before=slow_at_first)):
        assert at_work.wait(15)
        assert store.cancel(job_id).state == "canceling"
        until(store, job_id, "canceled")
        assert store.retry(job_id).run == 2
        until(store, job_id, "succeeded")
    assert [event.data["state"] for event in store.events(job_id, limit=5000) if event.kind == "state"] == [
        "planning", "running", "canceling", "canceled", "queued", "planning", "running", "sealing", "verifying", "sealing", "succeeded",
    ]  # fmt: skip


def test_a_draining_executor_puts_its_job_back_and_the_next_one_resumes_it(
    store: Store, claims: Claims, database: Database, stand_in: Any, submit: Any
) -> None:
    at_work = threading.Event()
    job_id = submit()

    def slow(task: int) -> None:
        at_work.set()
        time.sleep(0.02)

    with running(claims, stand_in(tasks=500, before=slow)):
        assert at_work.wait(15)
    job = store.job(job_id)
    assert (job.state, job.run, job.executor) == ("queued", 1, None)
    assert store.executor_silence_s() is None
    second = stand_in()
    assert Executor(Claims(database, "second"), stand_in).run_one(second)
    assert second.claims[0].resume
    assert store.job(job_id).state == "succeeded"


def test_an_executor_that_lost_its_lease_stops_and_leaves_the_job_to_its_successor(
    store: Store, database: Database, stand_in: Any, submit: Any
) -> None:
    job_id = submit()
    successor = stand_in()

    def overtake(task: int) -> None:
        if task == 1:
            with database.writing() as session:
                session.execute(update(JobRow).values(lease_until=now_utc() - timedelta(seconds=1)))
            assert Executor(Claims(database, "successor"), stand_in).run_one(successor)

    assert Executor(Claims(database, "dead"), stand_in).run_one(stand_in(before=overtake))
    assert len(successor.claims) == 1
    states = [event.data for event in store.events(job_id) if event.kind == "state"]
    assert [state["event"] for state in states].count("succeed") == 1
    assert store.job(job_id).state == "succeeded"


def test_a_lease_is_renewed_for_as_long_as_the_job_runs(store: Store, database: Database, stand_in: Any, submit: Any) -> None:
    job_id = submit()
    others: list[Any] = []

    def long(task: int) -> None:
        for _ in range(4):
            time.sleep(0.5)
            others.append(Claims(database, "greedy").claim())

    with running(Claims(database, "steady", lease_s=3), stand_in(tasks=2, before=long)):
        until(store, job_id, "succeeded")
    assert others == [None] * 8


@pytest.mark.parametrize(
    ("stated", "begun", "used"), [("error", False, "error"), ("error", True, "resume"), ("overwrite", True, "resume-overwrite")]
)
def test_a_run_goes_on_only_from_what_its_own_job_has_begun(
    store: Store, claims: Claims, stand_in: Any, submit: Any, stated: str, begun: bool, used: str
) -> None:
    submit(options={"on_exists": stated})
    if begun:

        def fail(task: int) -> None:
            raise NoSpace("full")

        Executor(claims, stand_in).run_one(stand_in(before=fail))
        store.retry(store.jobs().jobs[0].id)
    claim = claims.claim()
    assert claim is not None
    assert on_exists(claim) == used


def test_an_executor_one_of_whose_slots_ends_ends_with_it(claims: Claims, stand_in: Any, submit: Any) -> None:
    """It would beat on, hold its place in the list of those that live, and take no job any more."""

    def leave(task: int) -> None:
        raise SystemExit

    submit()
    executor = Executor(claims, lambda: stand_in(before=leave), beat_s=0.05, poll_s=0.02)
    thread = threading.Thread(target=executor.run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert executor.failed
