"""What the job store forgets, and when: jobs that ended long ago, all but the last lines of long logs, old audit rows, sent webhooks.

Everything is removed in small transactions, so that nobody who submits or reports waits for it. What was counted of purged jobs stays in
`tallies`. A job's target is not touched: it is its owner's. Its idempotency key is forgotten with it. A job that failed with bytes
staged is not forgotten: `convsvc staged` lists them, and gives them back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, and_, delete, exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from convsvc.service.errors import WrongValue
from convsvc.service.store.clock import now_of
from convsvc.service.store.database import Database
from convsvc.service.store.models import AuditRow, ChoreRow, DeliveryRow, EventRow, ExecutorRow, JobRow, LogRow
from convsvc.service.store.retrying import retried
from convsvc.service.store.states import ENDED

CHORE = "purge"
STEPS = ("submitted", "state", "planned")  # events that are a job's history: kept as long as the job
ROWS_AT_ONCE = 5000  # a transaction of some tens of milliseconds

KEEP_JOBS_DAYS = "CONVSVC_KEEP_JOBS_DAYS"
MOST_DAYS = 36_500  # a hundred years: further back times cannot be counted on

Condition = ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is kept. Days count from when a job ended, or a row was written; None keeps it for ever.

    Of a job's events (but for its changes of state) and of its log the last `keep_events` and `keep_logs` are kept. All this is looked
    after once in `every_s` seconds, by one of the executors.
    """

    jobs_days: float | None = 90
    audit_days: float | None = 365
    deliveries_days: float | None = 14
    keep_events: int = 20_000
    keep_logs: int = 60_000
    every_s: float = 3600


def retention_from(environment: Mapping[str, str] = os.environ) -> Retention:
    """As `CONVSVC_KEEP_JOBS_DAYS` says: for how many days jobs that have ended are kept, or "none" for ever.

    >>> retention_from({"CONVSVC_KEEP_JOBS_DAYS": "30"}).jobs_days
    30.0

    Raises WrongValue.
    """
    stated = environment.get(KEEP_JOBS_DAYS)
    if not stated:
        return Retention()
    try:
        days = None if stated == "none" else float(stated)
    except ValueError:
        days = -1.0
    if days is not None and not 0 <= days <= MOST_DAYS:
        raise WrongValue(f"{KEEP_JOBS_DAYS}={stated!r} is not a number of days", do=f"write 0 to {MOST_DAYS}, or none for ever")
    return Retention(jobs_days=days)


@dataclass(frozen=True, slots=True)
class Purged:
    """How many of each were removed, or would be. What goes with a job (its tasks, events, log) is not counted by itself."""

    jobs: int = 0
    events: int = 0
    logs: int = 0
    audit: int = 0
    deliveries: int = 0
    executors: int = 0


def purge(database: Database, retention: Retention, *, dry_run: bool = False) -> Purged:
    """Remove what is to be kept no longer; `dry_run` only counts it. Safe while the service runs, and to be broken off."""
    act, remove_jobs = (_count, _count_jobs) if dry_run else (_remove, _remove_jobs)
    now = _now(database)
    stale_events = _beyond(database, EventRow, JobRow.last_event, retention.keep_events)
    stale_logs = _beyond(database, LogRow, JobRow.last_log, retention.keep_logs)
    return Purged(
        jobs=remove_jobs(database, _ended(now, retention)),
        events=sum(act(database, EventRow.seq, [*where, EventRow.kind.not_in(STEPS)]) for where in stale_events),
        logs=sum(act(database, LogRow.seq, where) for where in stale_logs),
        audit=act(database, AuditRow.id, _older(AuditRow.at, now, retention.audit_days)),
        deliveries=act(database, DeliveryRow.id, _sent(now, retention.deliveries_days)),
        executors=act(database, ExecutorRow.name, _older(ExecutorRow.heartbeat_at, now, 1)),
    )


def keep_house(database: Database, retention: Retention) -> Purged | None:
    """Purge, if it is due and no other executor is at it; None where there was nothing to do, which is found with one small query."""
    return purge(database, retention) if _take_chore(database, retention.every_s) else None


@retried
def _take_chore(database: Database, every_s: float) -> bool:
    with database.reading() as session:
        due = session.scalars(select(ChoreRow.due_at).where(ChoreRow.name == CHORE)).first()
        if due is not None and due > now_of(session):
            return False
    try:
        with database.writing() as session:
            return _take_due(session, every_s)
    except IntegrityError:
        return False  # another executor made the row at the same moment, and is at it


def _take_due(session: Session, every_s: float) -> bool:
    row, now = session.get(ChoreRow, CHORE, with_for_update=True), now_of(session)
    if row is None:
        row = ChoreRow(name=CHORE, due_at=now)
        session.add(row)
    if row.due_at > now:
        return False
    row.due_at = now + timedelta(seconds=every_s)
    return True


@retried
def _now(database: Database) -> datetime:
    with database.reading() as session:
        return now_of(session)


def _older(at: Any, now: datetime, days: float | None) -> list[Condition] | None:
    return None if days is None else [at < now - timedelta(days=days)]


def _ended(now: datetime, retention: Retention) -> list[Condition] | None:
    old = _older(JobRow.ended_at, now, retention.jobs_days)
    # A webhook that nobody may send waits for ever; a job does not wait for it longer than for one that was sent.
    lasting = [] if (gone := _older(DeliveryRow.created_at, now, retention.deliveries_days)) is None else [~and_(*gone)]
    waiting = exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.state == "waiting", *lasting)
    # Nobody else knows of what a failed job has staged: it is kept until a retry or a cancel has used that or given it back.
    staged = and_(JobRow.state == "failed", JobRow.resumable)
    return old and [*old, JobRow.state.in_(sorted(ENDED)), ~waiting, ~staged]


def _sent(now: datetime, days: float | None) -> list[Condition] | None:
    old = _older(DeliveryRow.created_at, now, days)
    return old and [*old, DeliveryRow.state != "waiting"]


@retried
def _beyond(database: Database, table: Any, last: Any, keep: int) -> list[list[Condition]]:
    # For each job that has more rows in the table than are kept: which they are. `last` is the job's column that numbers them.
    with database.reading() as session:
        jobs = session.execute(select(JobRow.id, last).where(last > keep)).all()
    return [[table.job_id == job_id, table.seq <= number - keep] for job_id, number in jobs]


@retried
def _count(database: Database, key: Any, where: Sequence[Condition] | None) -> int:
    if where is None:
        return 0
    with database.reading() as session:
        return session.execute(select(func.count(key)).where(*where)).scalar_one()


def _remove(database: Database, key: Any, where: Sequence[Condition] | None) -> int:
    return 0 if where is None else sum(iter(lambda: _remove_some(database, key, where), 0))


@retried
def _remove_some(database: Database, key: Any, where: Sequence[Condition]) -> int:
    with database.writing() as session:
        some = select(key).where(*where).limit(ROWS_AT_ONCE).scalar_subquery()
        return _deleted(session, key.class_, [*where, key.in_(some)])


def _count_jobs(database: Database, where: Sequence[Condition] | None) -> int:
    return _count(database, JobRow.id, where)


def _remove_jobs(database: Database, where: Sequence[Condition] | None) -> int:
    return 0 if where is None else sum(iter(lambda: _remove_some_jobs(database, where), 0))


@retried
def _remove_some_jobs(database: Database, where: Sequence[Condition]) -> int:
    with database.writing() as session:
        size = JobRow.last_event + JobRow.last_log + 2 * JobRow.tasks_total  # a task has a row, and about one attempt
        oldest = session.execute(select(JobRow.id, size).where(*where).order_by(JobRow.ended_at).limit(ROWS_AT_ONCE // 10))
        chosen = first_of_size(((row[0], row[1]) for row in oldest), ROWS_AT_ONCE)
        # The conditions once more: a job may have been sent into the queue again since it was read.
        return _deleted(session, JobRow, [*where, JobRow.id.in_(chosen)])


def first_of_size(jobs: Iterable[tuple[str, int]], most: int) -> list[str]:
    """As many of the first jobs as have `most` rows together, but at least one. Pure.

    >>> first_of_size([("a", 2), ("b", 3), ("c", 1)], 5)
    ['a', 'b']
    """
    chosen: list[str] = []
    total = 0
    for job_id, rows in jobs:
        total += rows
        if chosen and total > most:
            break
        chosen.append(job_id)
    return chosen


def _deleted(session: Session, table: Any, where: Sequence[Condition]) -> int:
    result = session.execute(delete(table).where(*where).execution_options(synchronize_session=False))
    assert isinstance(result, CursorResult)
    return result.rowcount
