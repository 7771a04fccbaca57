"""What the console looks at: small queries over many rows, of which it shows sums and states only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select

from convsvc.service.store.changes import existing_job
from convsvc.service.store.database import Database
from convsvc.service.store.models import EventRow, JobRow, TaskRow, TenantRow
from convsvc.service.store.retrying import retried
from convsvc.service.store.states import LEASED
from convsvc.service.views import EventView

MOST_STEPS = 1000


@dataclass(frozen=True, slots=True)
class InFlight:
    """Of a job's current run: how many tasks run now, and how often one was begun again."""

    running: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """How many of a tenant's jobs wait, and how many executors have; its weight against other tenants'."""

    tenant: str
    queued: int
    running: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Moved:
    """A task that wrote so many bytes between two times."""

    start: datetime
    stop: datetime
    size_bytes: int


class Looking:
    """Reads only. `tenant` is whose jobs the caller sees, None for everybody's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retried
    def counts(self, tenant: str | None = None) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        query = select(JobRow.state, func.count()).group_by(JobRow.state)
        with self._database.reading() as session:
            rows = session.execute(query if tenant is None else query.where(JobRow.tenant == tenant))
            return {row[0]: row[1] for row in rows}

    @retried
    def loads(self, tenant: str | None = None) -> list[Load]:
        """What each tenant has in the queue, and on executors; by name, also those that have nothing."""
        working = [JobRow.tenant, func.sum(case((JobRow.state == "queued", 1), else_=0)), func.count()]
        active = select(*working).where(JobRow.state.in_(["queued", *sorted(LEASED)])).group_by(JobRow.tenant)
        with self._database.reading() as session:
            rows = {row[0]: (int(row[1]), int(row[2])) for row in session.execute(active)}
            weights = {row[0]: row[1] for row in session.execute(select(TenantRow.name, TenantRow.weight))}
        names = sorted(rows.keys() | weights.keys())
        found = [Load(name, queued, total - queued, weights.get(name, 1.0)) for name in names for queued, total in [rows.get(name, (0, 0))]]
        return [load for load in found if tenant in {None, load.tenant}]

    @retried
    def in_flight(self, job_ids: Sequence[str]) -> dict[str, InFlight]:
        """Of each of these jobs that has tasks; whoever asks has seen the jobs already."""
        if not job_ids:
            return {}
        running = func.sum(case((TaskRow.state == "running", 1), else_=0))
        again = func.sum(case((TaskRow.attempt > 1, TaskRow.attempt - 1), else_=0))
        query = select(TaskRow.job_id, running, again).where(TaskRow.job_id.in_(job_ids)).group_by(TaskRow.job_id)
        with self._database.reading() as session:
            return {row[0]: InFlight(int(row[1]), int(row[2])) for row in session.execute(query)}

    @retried
    def task_states(self, job_id: str, *, tenant: str | None = None) -> list[tuple[int, str, int]]:
        """Number, state and attempt of every task of the current run, by number. Raises NoSuchJob."""
        with self._database.reading() as session:
            job = existing_job(session, job_id, tenant)
            query = select(TaskRow.number, TaskRow.state, TaskRow.attempt).where(TaskRow.job_id == job.id).order_by(TaskRow.number)
            return [(row[0], row[1], row[2]) for row in session.execute(query)]

    @retried
    def moved(self, job_id: str, *, tenant: str | None = None) -> list[Moved]:
        """The tasks of the current run that were begun and have ended well. Raises NoSuchJob."""
        with self._database.reading() as session:
            job = existing_job(session, job_id, tenant)
            whole = (TaskRow.state == "done", TaskRow.started_at.is_not(None), TaskRow.ended_at.is_not(None))
            query = select(TaskRow.started_at, TaskRow.ended_at, TaskRow.bytes).where(TaskRow.job_id == job.id, *whole)
            return [Moved(start, stop, size) for start, stop, size in session.execute(query) if start and stop]

    @retried
    def steps(self, job_id: str, kinds: Collection[str], *, tenant: str | None = None) -> list[EventView]:
        """The newest events of these kinds, oldest first. Raises NoSuchJob."""
        with self._database.reading() as session:
            job = existing_job(session, job_id, tenant)
            query = select(EventRow).where(EventRow.job_id == job.id, EventRow.kind.in_(sorted(kinds)))
            rows: list[Any] = list(session.scalars(query.order_by(EventRow.seq.desc()).limit(MOST_STEPS)))
            return [EventView(row.seq, row.at, row.kind, row.data) for row in reversed(rows)]
