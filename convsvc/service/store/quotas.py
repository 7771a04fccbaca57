"""What a tenant may have at once: jobs that run, jobs that wait, bytes to be written. A limit of None is none."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from convsvc.service.errors import QuotaReached
from convsvc.service.store.models import JobRow, TenantRow
from convsvc.service.store.states import ENDED, JOB_STATES, LEASED
from convsvc.units import counted, in_bytes

ACTIVE = sorted({*JOB_STATES} - ENDED)
LIMITS = ("most_running_jobs", "most_queued_jobs", "most_active_bytes", "requests_per_minute")
JOBS_RETRY_S, BYTES_RETRY_S = 15, 60  # a place in the queue is free when any job is claimed; bytes are when one has ended


def with_limits_locked(session: Session, tenant: str) -> TenantRow | None:
    """The tenant if it has any limit, locked, so that what is counted against the limit stays true until the transaction ends."""
    row = session.get(TenantRow, tenant)
    if row is None or (row.most_running_jobs, row.most_queued_jobs, row.most_active_bytes) == (None, None, None):
        return None
    session.refresh(row, with_for_update={"key_share": True})  # a token may be made meanwhile
    return row


def check_quotas(session: Session, limits: TenantRow, *, more: int = 1) -> None:
    """Whether the tenant may have so many jobs more in the queue. Raises QuotaReached."""
    if limits.most_queued_jobs is not None:
        queued = _queued_jobs(session, limits.name)
        if queued + more > limits.most_queued_jobs:
            raise _reached(limits, f"{counted(queued, 'job')} in the queue", f"{limits.most_queued_jobs}", JOBS_RETRY_S)
    if limits.most_active_bytes is not None:
        size = _active_bytes(session, limits.name)
        if size >= limits.most_active_bytes:
            raise _reached(limits, f"{in_bytes(size)} to be written by its jobs", in_bytes(limits.most_active_bytes), BYTES_RETRY_S)


def running_jobs(session: Session, tenant: str | None = None) -> dict[str, int]:
    """How many jobs executors hold, by tenant; of all that have any, or of one."""
    held = (JobRow.state.in_(sorted(LEASED)), JobRow.executor.is_not(None))
    query = select(JobRow.tenant, func.count()).where(*held).group_by(JobRow.tenant)
    if tenant is not None:
        query = query.where(JobRow.tenant == tenant)
    return {row[0]: row[1] for row in session.execute(query)}


def allowance(session: Session, tenant: str) -> tuple[dict[str, float | None], dict[str, int]]:
    """A tenant's limits, None where it has none, and what counts against them now; both by the limits' names."""
    row = session.get(TenantRow, tenant)
    limits = {name: getattr(row, name) if row else None for name in LIMITS}
    running = running_jobs(session, tenant).get(tenant, 0)
    return limits, dict(zip(LIMITS, (running, _queued_jobs(session, tenant), _active_bytes(session, tenant)), strict=False))


def _queued_jobs(session: Session, tenant: str) -> int:
    return session.execute(select(func.count()).where(JobRow.state.in_(("blocked", "queued")), JobRow.tenant == tenant)).scalar_one()


def _active_bytes(session: Session, tenant: str) -> int:
    # A job that was not planned yet has 0 bytes: nobody knows better.
    total = func.coalesce(func.sum(JobRow.bytes_total), 0)
    return int(session.execute(select(total).where(JobRow.state.in_(ACTIVE), JobRow.tenant == tenant)).scalar_one())


def _reached(limits: TenantRow, has: str, bound: str, retry_after_s: int) -> QuotaReached:
    return QuotaReached(
        f"tenant {limits.name} has {has}",
        facts=[f"it may have {bound}"],
        do="wait until some of them have ended, or cancel some",
        details={"tenant": limits.name, "retry_after_s": retry_after_s},
    )
