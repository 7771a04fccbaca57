"""What an executor may take: a job whose executor died, else the next in the queue. Tenants take turns as `fair_share` says."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String, func, or_, select, text
from sqlalchemy.orm import Session

from convsvc.service.store.clock import now_of
from convsvc.service.store.fair_share import RECENT, Candidate, in_turn
from convsvc.service.store.models import QUEUED, JobRow, TenantRow, UtcDateTime
from convsvc.service.store.quotas import running_jobs, with_limits_locked
from convsvc.service.store.states import LEASED
from convsvc.spec import SPEC_VERSION

# Jobs of a newer schema are left to executors of that version: while an installation is upgraded, both work side by side.
_READABLE = text(f"spec_version <= {SPEC_VERSION}")

# The tenants in the queue, each with the time since which its next job waits. As steps from one entry of the index `ix_jobs_queue` to the
# next tenant's, since GROUP BY would walk through every job in the queue, at every claim.
_WAITING = text(f"""
    WITH RECURSIVE waiting (tenant) AS (
        SELECT min(tenant) FROM jobs WHERE state = 'queued' AND {_READABLE}
        UNION ALL
        SELECT (SELECT min(jobs.tenant) FROM jobs WHERE state = 'queued' AND {_READABLE} AND jobs.tenant > waiting.tenant)
        FROM waiting WHERE waiting.tenant IS NOT NULL
    )
    SELECT waiting.tenant, (
        SELECT min(jobs.queued_at) FROM jobs
        WHERE state = 'queued' AND {_READABLE} AND jobs.tenant = waiting.tenant AND jobs.priority = (
            SELECT max(best.priority) FROM jobs AS best
            WHERE best.state = 'queued' AND best.{_READABLE} AND best.tenant = waiting.tenant
        )
    ) AS since
    FROM waiting WHERE waiting.tenant IS NOT NULL
""").columns(tenant=String, since=UtcDateTime())


def is_any_waiting(session: Session) -> bool:
    """Whether there may be a job to take. Only reads: executors that have nothing to do ask often, and SQLite has one writer."""
    queued, abandoned = select(JobRow.id).where(QUEUED, _READABLE), select(JobRow.id).where(*_nobodys(session))
    return bool(session.execute(select(or_(queued.exists(), abandoned.exists()))).scalar_one())


def next_job(session: Session) -> JobRow | None:
    """The job that is to be taken now, locked; None if there is none. One that another transaction has locked is passed over."""
    return _abandoned(session) or _queued(session)


def _abandoned(session: Session) -> JobRow | None:
    # It had its turn when it was claimed, and counts as running still.
    return _locked_first(session, select(JobRow).where(*_nobodys(session)).order_by(JobRow.lease_until, JobRow.id))


def _nobodys(session: Session) -> tuple[Any, ...]:
    return _READABLE, JobRow.state.in_(sorted(LEASED)), or_(JobRow.lease_until < now_of(session), JobRow.lease_until.is_(None))


def _queued(session: Session) -> JobRow | None:
    for candidate in in_turn(_candidates(session)):
        # Counted again under a lock where there is a bound: two executors may not both take the last place.
        if candidate.most_running is None or _has_room(session, candidate.tenant):
            row = _head(session, candidate.tenant)
            if row is not None:
                return row
    return None


def _candidates(session: Session) -> list[Candidate]:
    waiting: dict[str, datetime] = {row[0]: row[1] for row in session.execute(_WAITING)}
    if not waiting:
        return []
    limits = {row.name: row for row in session.scalars(select(TenantRow).where(TenantRow.name.in_(list(waiting))))}
    running, recent = running_jobs(session), _recent_claims(session) if len(waiting) > 1 else {}
    return [_candidate(name, since, running.get(name, 0), recent.get(name, 0), limits.get(name)) for name, since in waiting.items()]


def _candidate(tenant: str, since: datetime, running: int, recent: int, limits: TenantRow | None) -> Candidate:
    if limits is None:
        return Candidate(tenant, since, running, recent)
    return Candidate(tenant, since, running, recent, limits.weight, limits.most_running_jobs)


def _recent_claims(session: Session) -> dict[str, int]:
    last = select(JobRow.tenant).where(JobRow.started_at.is_not(None)).order_by(JobRow.started_at.desc()).limit(RECENT).subquery()
    return {row[0]: row[1] for row in session.execute(select(last.c.tenant, func.count()).group_by(last.c.tenant))}


def _has_room(session: Session, tenant: str) -> bool:
    limits = with_limits_locked(session, tenant)
    bound = limits.most_running_jobs if limits else None
    return bound is None or running_jobs(session, tenant).get(tenant, 0) < bound


def _head(session: Session, tenant: str) -> JobRow | None:
    mine = (QUEUED, _READABLE, JobRow.tenant == tenant)
    best = select(func.max(JobRow.priority)).where(*mine).correlate(None).scalar_subquery()
    query = select(JobRow).where(*mine, JobRow.priority == best)
    return _locked_first(session, query.order_by(JobRow.queued_at, JobRow.id))


def _locked_first(session: Session, query: Any) -> JobRow | None:
    found: JobRow | None = session.scalars(query.limit(1).with_for_update(skip_locked=True)).first()
    return found
