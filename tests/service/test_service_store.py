"""Jobs in the store: targets, keys, claims, leases, fences."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from convsvc.errors import TargetBusy
from convsvc.service.errors import IllegalTransition, KeyReused, LeaseLost, NoSuchJob
from convsvc.service.store.claims import MAX_CLAIMS, Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import JobRow
from convsvc.spec import Job, parse_job

TASKS = [PlannedTask(0, "embedding", 10), PlannedTask(1, "layer 0", 20)]


def a_job(target: str = "/shared/out", **more: Any) -> Job:
    source = {"format": "huggingface", "path": "/shared/in"}
    return parse_job({"source": source, "target": {"format": "mindspeed-llm", "path": target}, **more})


@pytest.fixture
def dead(database: Database) -> Claims:
    """An executor whose leases have expired as soon as they are given."""
    return Claims(database, "dead", lease_s=-1)


def test_two_active_jobs_cannot_have_one_target_however_it_is_spelled(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    first, _ = store.submit(a_job(f"{tmp_path}/out"))
    with pytest.raises(TargetBusy) as caught:
        store.submit(a_job(f"{tmp_path}/link/./out/"))
    assert caught.value.details["job"] == first.id
    store.cancel(first.id)
    _, created = store.submit(a_job(f"{tmp_path}/link/out"))
    assert created


def test_of_many_that_want_one_target_at_once_exactly_one_gets_it(store: Store) -> None:
    outcomes: list[str] = []

    def submit() -> None:
        try:
            outcomes.append(store.submit(a_job())[0].id)
        except TargetBusy as busy:
            outcomes.append(f"busy {busy.details['job']}")

    _at_once(8, submit)
    [winner] = [outcome for outcome in outcomes if not outcome.startswith("busy")]
    assert sorted(outcomes) == sorted([winner, *[f"busy {winner}"] * 7])


def test_the_same_key_gives_the_same_job_even_when_it_comes_many_times_at_once(store: Store) -> None:
    ids: list[str] = []
    _at_once(8, lambda: ids.append(store.submit(a_job(), "key-1")[0].id))
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_a_key_that_comes_with_another_job_is_refused(store: Store) -> None:
    first, _ = store.submit(a_job("/shared/a"), "key-1")
    with pytest.raises(KeyReused, match=first.id):
        store.submit(a_job("/shared/b"), "key-1")


def test_jobs_come_in_pages_newest_first_and_by_state(store: Store) -> None:
    ids = [store.submit(a_job(f"/shared/{n}"))[0].id for n in range(5)]
    store.cancel(ids[1])
    page = store.jobs(limit=2)
    seen = [job.id for job in page.jobs]
    while page.next_cursor:
        page = store.jobs(limit=2, cursor=page.next_cursor)
        seen += [job.id for job in page.jobs]
    assert seen == ids[::-1]
    assert [job.id for job in store.jobs(state="canceled").jobs] == [ids[1]]


def test_the_oldest_job_is_claimed_first_and_each_only_once(store: Store, database: Database) -> None:
    ids = [store.submit(a_job(f"/shared/{n}"))[0].id for n in range(6)]
    claimed: list[str] = []

    def take() -> None:
        claims = Claims(database, threading.current_thread().name)
        while (claim := claims.claim()) is not None:
            claimed.append(claim.job_id)

    assert Claims(database, "first").claim().job_id == ids[0]  # type: ignore[union-attr]  # a job is queued
    _at_once(3, take)
    assert sorted(claimed) == ids[1:]


def test_a_job_whose_lease_expired_is_taken_up_to_be_resumed(store: Store, dead: Claims, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    lost = dead.claim()
    assert lost is not None
    assert not lost.resume
    dead.planned(lost, "llama2", {}, TASKS)
    dead.task_started(lost, 0, 1)
    taken = claims.claim()
    assert taken is not None
    assert (taken.job_id, taken.resume, taken.fence) == (job.id, True, lost.fence + 1)
    assert store.job(job.id).executor == "executor-1"
    assert "dead went silent" in store.logs(job.id)[-1].message


def test_a_job_whose_lease_holds_is_not_taken_up(store: Store, claims: Claims, database: Database) -> None:
    store.submit(a_job())
    assert claims.claim() is not None
    assert Claims(database, "greedy").claim() is None


def test_whatever_a_late_executor_says_is_refused_and_changes_nothing(store: Store, dead: Claims, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    old, new = dead.claim(), claims.claim()
    assert old is not None
    assert new is not None
    claims.planned(new, "llama2", {}, TASKS)
    before = store.job(job.id), store.events(job.id), store.logs(job.id), store.tasks(job.id)
    words = [
        lambda: dead.renew(old),
        lambda: dead.planned(old, "x", {}, []),
        lambda: dead.phase(old, "seal", 0, "seal"),
        lambda: dead.task_done(old, 0),
        lambda: dead.log(old, "I live"),
        lambda: dead.succeed(old, {}),
        lambda: dead.fail(old, {}),
        lambda: dead.release(old),
    ]
    for word in words:
        with pytest.raises(LeaseLost):
            word()
    assert (store.job(job.id), store.events(job.id), store.logs(job.id), store.tasks(job.id)) == before


def test_a_job_that_is_put_back_is_the_next_one_again(store: Store, claims: Claims) -> None:
    first, second = (store.submit(a_job(f"/shared/{number}"))[0].id for number in range(2))
    claim = claims.claim()
    assert claim is not None
    claims.release(claim)
    assert [claims.claim().job_id for _ in range(2)] == [first, second]  # type: ignore[union-attr]  # both are there


def test_who_waits_for_an_engine_and_dies_has_not_died_of_the_job(store: Store, dead: Claims) -> None:
    job, _ = store.submit(a_job())
    for _ in range(2 * MAX_CLAIMS):
        assert dead.claim() is not None
    claim = dead.claim()
    assert claim is not None
    dead.begin(claim)
    dead.begin(claim)
    dead.release(claim)
    assert store.job(job.id).state == "queued"
    with store.database.reading() as session:
        row = session.get(JobRow, job.id)
        assert row is not None
        assert row.claims == 0


def test_a_job_that_kills_its_executors_fails_instead_of_going_on_for_ever(store: Store, dead: Claims) -> None:
    job, _ = store.submit(a_job())
    for _ in range(MAX_CLAIMS):
        claim = dead.claim()
        assert claim is not None
        dead.begin(claim)
    assert dead.claim() is None
    view = store.job(job.id)
    assert view.state == "failed"
    assert view.error is not None
    assert f"died {MAX_CLAIMS} times" in view.error["message"]


def test_releasing_a_job_often_does_not_count_as_killing_executors(store: Store, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    for _ in range(MAX_CLAIMS + 2):
        claim = claims.claim()
        assert claim is not None
        claims.release(claim)
    assert store.job(job.id).state == "queued"


def test_an_abandoned_job_that_is_canceled_goes_to_an_executor_which_cleans_up(store: Store, dead: Claims, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    dead.claim()
    assert store.cancel(job.id).state == "canceling"
    claim = claims.claim()
    assert claim is not None
    assert claim.canceling
    claims.stop(claim)
    assert store.job(job.id).state == "canceled"


def test_canceling_a_job_that_waits_or_failed_with_something_staged_gives_it_to_an_executor(store: Store, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    for end in (claims.release, lambda claim: claims.fail(claim, {"message": "no"})):
        claim = claims.claim()
        assert claim is not None
        claims.planned(claim, "llama2", {"tasks": 2}, TASKS)
        claims.phase(claim, "write", 2)
        end(claim)
        assert store.cancel(job.id).state == "canceling"
        cleaner = claims.claim()
        assert cleaner is not None
        assert cleaner.canceling
        claims.stop(cleaner)
        assert store.cancel(job.id).state == "canceled"
        store.retry(job.id)
    assert store.cancel(job.id).state == "canceled", "nothing is staged any more: no executor is needed"


def test_an_executor_that_finishes_tasks_does_not_count_as_killed_by_the_job(store: Store, dead: Claims) -> None:
    job, _ = store.submit(a_job())
    for _ in range(MAX_CLAIMS + 2):
        claim = dead.claim()
        assert claim is not None
        dead.planned(claim, "llama2", {"tasks": 2}, TASKS)
        dead.task_done(claim, 0)
    assert store.job(job.id).state == "running"


def test_cancel_is_idempotent_and_refused_once_the_job_has_ended_otherwise(store: Store, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    assert [store.cancel(job.id).state for _ in range(2)] == ["canceled", "canceled"]
    assert [event.kind for event in store.events(job.id)] == ["submitted", "state"]
    other, _ = store.submit(a_job("/shared/other"))
    claim = claims.claim()
    assert claim is not None
    claims.fail(claim, {"message": "no"})
    with pytest.raises(IllegalTransition, match="is failed: cannot cancel"):
        store.cancel(other.id)


def test_retry_starts_a_clean_run_of_the_same_job(store: Store, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {"tasks": 2}, TASKS)
    claims.task_started(claim, 0, 1)
    claims.task_done(claim, 0, seconds=1.5, worker="w")
    claims.fail(claim, {"message": "disk"})
    again = store.retry(job.id)
    assert (again.id, again.state, again.run, again.error, again.plan) == (job.id, "queued", 2, None, None)
    assert again.progress.tasks_total == again.progress.tasks_done == 0
    assert store.tasks(job.id) == []
    taken = claims.claim()
    assert taken is not None
    assert taken.resume


def test_retry_is_refused_while_another_job_has_the_target(store: Store) -> None:
    job, _ = store.submit(a_job())
    store.cancel(job.id)
    other, _ = store.submit(a_job())
    with pytest.raises(TargetBusy) as caught:
        store.retry(job.id)
    assert caught.value.details["job"] == other.id
    assert store.job(job.id).state == "canceled"


def test_tasks_done_by_an_earlier_run_count_when_everything_is_written(store: Store, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, TASKS)
    claims.phase(claim, "write", 1)
    assert store.job(job.id).progress.tasks_done == 1
    claims.task_started(claim, 1, 1)
    claims.task_done(claim, 1)
    claims.phase(claim, "seal", 0, "seal")
    progress = store.job(job.id).progress
    assert (progress.tasks_done, progress.bytes_done, progress.bytes_total) == (2, 30, 30)
    assert [task.state for task in store.tasks(job.id)] == ["done", "done"]


def test_a_task_reported_done_twice_counts_once(store: Store, claims: Claims) -> None:
    job, _ = store.submit(a_job())
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, TASKS)
    for _ in range(2):
        claims.task_done(claim, 1)
    assert store.job(job.id).progress.bytes_done == 20


def test_what_is_asked_of_a_job_that_does_not_exist_is_refused(store: Store) -> None:
    for ask in (store.job, store.tasks, store.events, store.logs, store.cancel, store.retry):
        with pytest.raises(NoSuchJob, match="there is no job nope"):
            ask("nope")


def _at_once(number: int, act: Any) -> None:
    threads = [threading.Thread(target=act) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
