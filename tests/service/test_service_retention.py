"""What the job store forgets, and what it keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import func, select, update

from convsvc.cli.main import main
from convsvc.service.access.audit import add_entry
from convsvc.service.errors import NoSuchJob, WrongValue
from convsvc.service.executor.housekeeping import Housekeeper
from convsvc.service.store import retention
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import AttemptRow, AuditRow, ChoreRow, DeliveryRow, EventRow, ExecutorRow, JobRow, LogRow, TaskRow
from convsvc.service.store.retention import Purged, Retention, keep_house, purge, retention_from
from convsvc.spec import parse_job

NOW = datetime.now(timezone.utc)
FOR_EVER = Retention(jobs_days=None, audit_days=None, deliveries_days=None)


@pytest.fixture
def ended(store: Store, claims: Claims, database: Database, a_job: Callable[..., Any]) -> Callable[[str, float], str]:
    """Makes a job that has succeeded so many days ago."""

    def make(target: str, days: float) -> str:
        job, _ = store.submit(parse_job(a_job(target)))
        claim = claims.claim()
        assert claim is not None
        claims.planned(claim, "llama2", {}, [PlannedTask(0, "layer 0", 10)])
        claims.task_started(claim, 0, 1)
        claims.task_done(claim, 0)
        claims.succeed(claim, {})
        with database.writing() as session:
            session.execute(update(JobRow).where(JobRow.id == job.id).values(ended_at=NOW - timedelta(days=days)))
        return job.id

    return make


def counted(database: Database) -> dict[str, int]:
    with database.reading() as session:
        tables = (JobRow, TaskRow, AttemptRow, EventRow, LogRow)
        return {table.__tablename__: session.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}


def test_jobs_that_ended_long_ago_go_with_all_that_is_theirs(store: Store, database: Database, ended: Callable[[str, float], str]) -> None:
    new = ended("/shared/new", 29)
    kept = counted(database)
    old = ended("/shared/old", 31)
    assert purge(database, Retention(jobs_days=30)) == Purged(jobs=1)
    assert counted(database) == kept
    assert store.job(new).state == "succeeded"
    with pytest.raises(NoSuchJob):
        store.job(old)


def test_jobs_that_have_not_ended_stay_however_old_they_are(store: Store, database: Database, a_job: Callable[..., Any]) -> None:
    job, _ = store.submit(parse_job(a_job()))
    with database.writing() as session:
        session.execute(update(JobRow).values(created_at=NOW - timedelta(days=999), queued_at=NOW - timedelta(days=999)))
    assert purge(database, Retention(jobs_days=0)) == Purged()
    assert store.job(job.id).state == "queued"


def test_a_job_that_is_being_canceled_after_it_failed_stays_until_it_is(
    store: Store, claims: Claims, database: Database, a_job: Callable[..., Any]
) -> None:
    job, _ = store.submit(parse_job(a_job()))
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(0, "layer 0", 10)])
    claims.task_started(claim, 0, 1)
    claims.fail(claim, {"message": "disk"})
    assert store.cancel(job.id).state == "canceling"
    assert purge(database, Retention(jobs_days=0)).jobs == 0


def test_a_job_whose_webhook_still_waits_stays(store: Store, database: Database, ended: Callable[[str, float], str]) -> None:
    job = ended("/shared/a", 100)
    with database.writing() as session:
        session.add(DeliveryRow(job_id=job, run=1, url="https://x", body={}, state="waiting", next_at=NOW, created_at=NOW))
    assert purge(database, Retention()).jobs == 0
    with database.writing() as session:
        session.execute(update(DeliveryRow).values(state="delivered"))
    assert purge(database, Retention()).jobs == 1


def test_a_dry_run_counts_the_same_and_removes_nothing(database: Database, ended: Callable[[str, float], str]) -> None:
    ended("/shared/old", 100)
    ended("/shared/new", 1)
    wanted = Retention(jobs_days=30, keep_events=2, keep_logs=0)
    before = counted(database)
    dry = purge(database, wanted, dry_run=True)
    assert counted(database) == before
    real = purge(database, wanted)
    assert (dry.jobs, real.jobs) == (1, 1)
    assert counted(database)["jobs"] == 1


def test_many_old_jobs_are_removed_a_few_at_a_time(
    database: Database, ended: Callable[[str, float], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 25)  # each of the jobs has ten
    transactions: list[int] = []
    remove = retention._remove_some_jobs
    monkeypatch.setattr(retention, "_remove_some_jobs", lambda *given: transactions.append(remove(*given)) or transactions[-1])
    for number in range(5):
        ended(f"/shared/{number}", 100)
    assert purge(database, Retention()).jobs == 5
    assert transactions == [2, 2, 1, 0]


def test_of_a_long_job_the_last_events_and_lines_are_kept_and_every_change_of_state(
    store: Store, claims: Claims, database: Database, a_job: Callable[..., Any]
) -> None:
    job, _ = store.submit(parse_job(a_job()))
    claim = claims.claim()
    assert claim is not None
    for number in range(20):
        claims.log(claim, f"line {number}")
        claims.checked(claim, "verify", number, 20, 0)
    purged = purge(database, Retention(keep_events=5, keep_logs=3))
    assert (purged.events, purged.logs) == (15, 17)
    assert [line.message for line in store.logs(job.id)] == ["line 17", "line 18", "line 19"]
    events = store.events(job.id)
    assert [event.kind for event in events] == ["submitted", "state", *["task"] * 5]
    assert events[-1].seq == 22
    claims.log(claim, "and on")
    assert store.logs(job.id)[-1].seq == 21


def test_old_audit_rows_and_sent_webhooks_go_and_waiting_ones_stay(database: Database, ended: Callable[[str, float], str]) -> None:
    job, old = ended("/shared/a", 1), NOW - timedelta(days=400)
    with database.writing() as session:
        for _ in range(2):
            add_entry(session, actor="a", tenant="default", action="submit")
        for state in ("waiting", "delivered", "failed"):
            session.add(DeliveryRow(job_id=job, run=1, url="https://x", body={}, state=state, next_at=old, created_at=old))
        session.flush()
        session.execute(update(AuditRow).where(AuditRow.id == select(func.min(AuditRow.id)).scalar_subquery()).values(at=old))
        session.add(ExecutorRow(name="gone", engine="ray", started_at=old, heartbeat_at=old))
    assert purge(database, Retention()) == Purged(audit=1, deliveries=2, executors=1)
    with database.reading() as session:
        assert session.scalars(select(DeliveryRow.state)).all() == ["waiting"]
        assert session.execute(select(func.count()).select_from(AuditRow)).scalar_one() == 1


def test_what_is_to_be_kept_for_ever_is(database: Database, ended: Callable[[str, float], str]) -> None:
    ended("/shared/a", 10_000)
    assert purge(database, FOR_EVER) == Purged()


def test_of_all_executors_one_keeps_house_and_only_when_it_is_due(database: Database, ended: Callable[[str, float], str]) -> None:
    ended("/shared/a", 100)
    done: list[Purged | None] = []
    threads = [threading.Thread(target=lambda: done.append(keep_house(database, Retention()))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [one.jobs for one in done if one is not None] == [1]
    assert len(done) == 6
    assert keep_house(database, Retention()) is None
    with database.writing() as session:
        session.execute(update(ChoreRow).values(due_at=NOW - timedelta(seconds=1)))
    assert keep_house(database, Retention()) == Purged()


def test_an_administrator_purges_from_the_command_line_and_the_audit_says_so(
    database: Database, database_url: str, ended: Callable[[str, float], str], capsys: pytest.CaptureFixture[str]
) -> None:
    ended("/shared/a", 10)
    assert main(["purge", "--database-url", database_url, "--older-than-days", "7", "--dry-run", "--json"]) == 0
    assert '"jobs": 1' in capsys.readouterr().out
    assert counted(database)["jobs"] == 1
    assert main(["purge", "--database-url", database_url, "--older-than-days", "7"]) == 0
    assert capsys.readouterr().out.startswith("removed\n  jobs        1\n")
    assert counted(database)["jobs"] == 0
    with database.reading() as session:
        [row] = session.scalars(select(AuditRow).where(AuditRow.action == "purge"))
        assert row.detail is not None
        assert row.detail["jobs"] == 1


@pytest.mark.parametrize("stated", ["-1", "soon", "nan", "1e9"])
def test_days_that_are_none_are_refused_by_name(stated: str) -> None:
    with pytest.raises(WrongValue, match="CONVSVC_KEEP_JOBS_DAYS"):
        retention_from({"CONVSVC_KEEP_JOBS_DAYS": stated})
    assert retention_from({"CONVSVC_KEEP_JOBS_DAYS": "none"}).jobs_days is None
    assert retention_from({}) == Retention()


def test_an_executors_housekeeper_purges_and_ends_at_once_when_told(database: Database, ended: Callable[[str, float], str]) -> None:
    ended("/shared/a", 100)
    housekeeper = Housekeeper(database, Retention(), poll_s=0.01)
    housekeeper.start()
    deadline = time.monotonic() + 30
    while counted(database)["jobs"]:
        assert time.monotonic() < deadline, "nothing was purged in 30 s"
        time.sleep(0.01)
    housekeeper.stop()
    assert not housekeeper._thread.is_alive()
