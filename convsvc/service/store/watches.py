"""The users' side of watches: make, look, remove. The executors' side is `looks.py`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from convsvc.service.access.identity import Caller
from convsvc.service.errors import NoSuchWatch, QuotaReached
from convsvc.service.store.clock import now_of
from convsvc.service.store.database import Database
from convsvc.service.store.ids import new_job_id
from convsvc.service.store.models import JobRow, SightingRow, TakenRow, WatchRow
from convsvc.service.store.retrying import retried
from convsvc.service.store.shown import shown_spec
from convsvc.service.watch_views import IterationView, WatchView
from convsvc.service.watching.rules import WatchSpec, dump_watch, hash_of
from convsvc.spec import SPEC_VERSION

MOST_WATCHES = 1000  # of a tenant: each is looked at again and again
FORGOTTEN = "forgotten"


class Watches:
    """Watches in a database. `tenant` is whose watches the caller sees, None for everybody's."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, spec: WatchSpec, *, caller: Caller) -> tuple[WatchView, bool]:
        """Keep the watch; True says that it is new, False that the tenant has the same one already, which is answered.

        Raises QuotaReached where the tenant has as many as it may have.
        """
        try:
            return self._create(spec, caller)
        except IntegrityError:  # the same one came twice at one moment
            return self._create(spec, caller)

    @retried
    def _create(self, spec: WatchSpec, caller: Caller) -> tuple[WatchView, bool]:
        digest = hash_of(spec)
        with self.database.writing() as session:
            query = select(WatchRow).where(WatchRow.tenant == caller.tenant, WatchRow.request_hash == digest)
            known = session.scalars(query).first()
            if known is not None:
                return _view(session, known), False
            _check_room(session, caller.tenant)
            now = now_of(session)
            row = WatchRow(id=new_job_id(), tenant=caller.tenant, submitted_by=caller.name, spec=dump_watch(spec), request_hash=digest)
            row.spec_version, row.created_at, row.due_at, row.fence = SPEC_VERSION, now, now, 0
            session.add(row)
            session.flush()
            return _view(session, row), True

    @retried
    def watch(self, watch_id: str, *, tenant: str | None = None) -> WatchView:
        """Raises NoSuchWatch."""
        with self.database.reading() as session:
            return _view(session, _existing(session, watch_id, tenant))

    @retried
    def watches(self, *, tenant: str | None = None) -> list[WatchView]:
        """All of them, newest first."""
        query = select(WatchRow).order_by(WatchRow.id.desc())
        with self.database.reading() as session:
            rows = session.scalars(query if tenant is None else query.where(WatchRow.tenant == tenant))
            return [_view(session, row) for row in rows]

    @retried
    def iterations(self, watch_id: str, *, tenant: str | None = None, before: int | None = None, limit: int = 1000) -> list[IterationView]:
        """What was seen, the highest iterations first; those `before` a number. Raises NoSuchWatch."""
        with self.database.reading() as session:
            row = _existing(session, watch_id, tenant)
            query = select(SightingRow).where(SightingRow.watch_id == row.id).order_by(SightingRow.iteration.desc()).limit(limit)
            if before is not None:
                query = query.where(SightingRow.iteration < before)
            seen = session.scalars(query).all()
            return [_iteration(one, *_taken(session, row.id, one.iteration)) for one in seen]

    @retried
    def remove(self, watch_id: str, *, tenant: str | None = None) -> WatchView:
        """Forget the watch, and what was seen; its jobs and their targets stay. Answers it as it was. Raises NoSuchWatch."""
        with self.database.writing() as session:
            row = _existing(session, watch_id, tenant)
            view = _view(session, row)
            session.delete(row)
            return view


def _existing(session: Session, watch_id: str, tenant: str | None) -> WatchRow:
    row = session.get(WatchRow, watch_id)
    if row is None or tenant not in {None, row.tenant}:
        raise NoSuchWatch(f"there is no watch {watch_id}", do="`convsvc watches` lists them", details={"watch": watch_id})
    return row


def _check_room(session: Session, tenant: str) -> None:
    count = session.execute(select(func.count()).where(WatchRow.tenant == tenant)).scalar_one()
    if count >= MOST_WATCHES:
        details = {"tenant": tenant, "retry_after_s": 60}
        raise QuotaReached(f"tenant {tenant} has {count} watches", do="remove some: `convsvc watches`", details=details)


def _view(session: Session, row: WatchRow) -> WatchView:
    seen = select(SightingRow.state, func.count()).where(SightingRow.watch_id == row.id).group_by(SightingRow.state)
    jobs = select(JobRow.state, func.count()).select_from(TakenRow).outerjoin(JobRow, JobRow.id == TakenRow.job_id)
    jobs = jobs.where(TakenRow.watch_id == row.id).group_by(JobRow.state)
    return WatchView(
        id=row.id,
        name=row.spec.get("name"),
        directory=str(row.spec.get("directory")),
        tenant=row.tenant,
        submitted_by=row.submitted_by,
        created_at=row.created_at,
        looked_at=row.looked_at,
        executor=row.executor,
        error=row.error,
        spec=_shown(row.spec),
        iterations={row[0]: row[1] for row in session.execute(seen)},
        jobs={row[0] or FORGOTTEN: row[1] for row in session.execute(jobs)},
    )


def _shown(spec: dict[str, Any]) -> dict[str, Any]:
    job = spec.get("job")
    return {**spec, "job": shown_spec(job)} if isinstance(job, dict) else spec


def _taken(session: Session, watch_id: str, iteration: int) -> tuple[TakenRow | None, str | None]:
    """The last job that an iteration was given to, and its state."""
    query = select(TakenRow, JobRow.state).outerjoin(JobRow, JobRow.id == TakenRow.job_id)
    query = query.where(TakenRow.watch_id == watch_id, TakenRow.iteration == iteration).order_by(TakenRow.taken_at.desc()).limit(1)
    found = session.execute(query).first()
    return (found[0], found[1] or FORGOTTEN) if found else (None, None)


def _iteration(seen: SightingRow, taken: TakenRow | None, state: str | None) -> IterationView:
    view = (seen.iteration, seen.state, seen.looked_at, seen.error)
    if taken is None:
        return IterationView(*view)
    return IterationView(*view, taken.job_id, state, taken.target_path, taken.taken_at, taken.removed_at, taken.kept_for)
