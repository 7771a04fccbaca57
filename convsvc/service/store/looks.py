"""The executors' side of watches: take one that is due, keep what was seen and taken, put it back.

One executor at a time looks at a watch, under a lease; every word carries the lease's fence. That an iteration is converted once does
not hang on it: the key of its row does, and the job's idempotency key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from convsvc.service.errors import LeaseLost
from convsvc.service.store.clock import now_of
from convsvc.service.store.database import Database
from convsvc.service.store.models import JobRow, SightingRow, TakenRow, TenantRow, WatchRow
from convsvc.service.store.retrying import retried
from convsvc.service.store.states import ENDED
from convsvc.service.watching.sighting import Sighting, SightingState
from convsvc.spec import SPEC_VERSION


@dataclass(frozen=True, slots=True)
class HeldWatch:
    """A watch that an executor looks at. `roots` are its tenant's as they are now."""

    id: str
    fence: int
    spec: dict[str, Any]
    tenant: str
    submitted_by: str | None
    roots: tuple[str, ...]
    now: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """An iteration that was given to a job; `state` is the job's, None where it is forgotten."""

    iteration: int
    content: str
    job_id: str
    target: str
    plan: str
    state: str | None = None
    is_removed: bool = False


class Looks:
    """What the executor `name` does with watches. A lease lasts `lease_s` seconds unless `keep` renews it."""

    def __init__(self, database: Database, name: str, *, lease_s: float = 15) -> None:
        self.database, self.name, self.lease_s = database, name, lease_s

    def take(self) -> HeldWatch | None:
        """A watch that is due and that nobody else looks at; None if there is none, which is found by reading alone."""
        return self._take() if self._is_any_due() else None

    @retried
    def _is_any_due(self) -> bool:
        with self.database.reading() as session:
            return session.scalars(select(WatchRow.id).where(*_due(session)).limit(1)).first() is not None

    @retried
    def _take(self) -> HeldWatch | None:
        with self.database.writing() as session:
            query = select(WatchRow).where(*_due(session)).order_by(WatchRow.due_at).limit(1)
            row = session.scalars(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            now = now_of(session)
            row.executor, row.fence, row.lease_until = self.name, row.fence + 1, now + timedelta(seconds=self.lease_s)
            tenant = session.get(TenantRow, row.tenant)
            roots = tuple(tenant.roots) if tenant else ()
            return HeldWatch(row.id, row.fence, row.spec, row.tenant, row.submitted_by, roots, now)

    @retried
    def keep(self, watch: HeldWatch) -> datetime:
        """Hold the watch for another `lease_s`; what time it is. Raises LeaseLost."""
        with self._held(watch) as (session, row):
            now = now_of(session)
            row.lease_until = now + timedelta(seconds=self.lease_s)
            return now

    @retried
    def release(self, watch: HeldWatch, next_s: float, error: dict[str, Any] | None = None) -> None:
        """The look is over: the next one is due in `next_s`. Raises LeaseLost."""
        with self._held(watch) as (session, row):
            now = now_of(session)
            row.executor, row.lease_until, row.looked_at, row.error = None, None, now, error
            row.due_at = now + timedelta(seconds=next_s)

    @retried
    def sightings(self, watch: HeldWatch) -> dict[int, Sighting]:
        """What was seen at earlier looks, by iteration."""
        with self.database.reading() as session:
            rows = session.scalars(select(SightingRow).where(SightingRow.watch_id == watch.id))
            return {row.iteration: _sighting(row) for row in rows}

    @retried
    def saw(self, watch: HeldWatch, seen: Sighting) -> None:
        """Keep what was seen of an iteration, in place of what was before. Raises LeaseLost."""
        with self._held(watch) as (session, _):
            row = session.get(SightingRow, (watch.id, seen.iteration))
            if row is None:
                row = SightingRow(watch_id=watch.id, iteration=seen.iteration)
                session.add(row)
            row.state, row.signature, row.error = seen.state, seen.signature, seen.error
            row.since, row.looked_at = seen.since, seen.looked_at

    @retried
    def taken(self, watch: HeldWatch) -> list[Taken]:
        """All that were given to jobs, the highest iterations first."""
        query = select(TakenRow, JobRow.state).outerjoin(JobRow, JobRow.id == TakenRow.job_id)
        query = query.where(TakenRow.watch_id == watch.id).order_by(TakenRow.iteration.desc(), TakenRow.taken_at.desc())
        with self.database.reading() as session:
            return [_taken(row[0], row[1]) for row in session.execute(query)]

    @retried
    def take_iteration(self, watch: HeldWatch, taken: Taken, seen: Sighting) -> None:
        """The iteration was given to its job: with what was seen, in one transaction. Said again it changes nothing. Raises LeaseLost."""
        with self._held(watch) as (session, _):
            if session.get(TakenRow, (watch.id, taken.iteration, taken.content)) is None:
                key = {"watch_id": watch.id, "iteration": taken.iteration, "content": taken.content}
                row = TakenRow(**key, job_id=taken.job_id, target_path=taken.target, plan=taken.plan, taken_at=now_of(session))
                session.add(row)
        self.saw(watch, seen)

    @retried
    def removed(self, watch: HeldWatch, taken: Taken, kept_for: str | None = None) -> None:
        """The target gave way to newer ones; or it could not, and why. Raises LeaseLost."""
        with self._held(watch) as (session, _):
            row = session.get(TakenRow, (watch.id, taken.iteration, taken.content))
            if row is not None:
                row.kept_for = kept_for
                row.removed_at = now_of(session) if kept_for is None else None

    @retried
    def reads(self, path: str) -> str | None:
        """A job that has not ended and reads what lies at a path, or in it; None if there is none."""
        query = select(JobRow.id).where(JobRow.state.not_in(sorted(ENDED)))
        within = or_(JobRow.source_path == path, JobRow.source_path.startswith(path.rstrip("/") + "/", autoescape=True))
        with self.database.reading() as session:
            return session.scalars(query.where(within).limit(1)).first()

    @contextmanager
    def _held(self, watch: HeldWatch) -> Iterator[tuple[Session, WatchRow]]:
        with self.database.writing() as session:
            row = session.get(WatchRow, watch.id, with_for_update=True)
            if row is None or row.fence != watch.fence:
                raise LeaseLost(f"watch {watch.id} is no longer looked at by {self.name}", details={"watch": watch.id})
            yield session, row


def _due(session: Session) -> tuple[Any, ...]:
    now = now_of(session)
    is_free = or_(WatchRow.lease_until.is_(None), WatchRow.lease_until < now)
    return WatchRow.spec_version <= SPEC_VERSION, WatchRow.due_at <= now, is_free


def _sighting(row: SightingRow) -> Sighting:
    return Sighting(row.iteration, cast(SightingState, row.state), row.signature, row.since, row.looked_at, row.error)


def _taken(row: TakenRow, state: str | None) -> Taken:
    return Taken(row.iteration, row.content, row.job_id, row.target_path, row.plan, state, row.removed_at is not None)
