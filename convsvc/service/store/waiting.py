"""Why a job does not go on. Only looks: what is said is true of this moment, and the next look may say something else."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from convsvc.service.store.changes import open_predecessors
from convsvc.service.store.clock import now_of
from convsvc.service.store.models import ExecutorRow, JobRow, TenantRow
from convsvc.service.store.quotas import running_jobs
from convsvc.service.store.states import LEASED
from convsvc.service.views import Waiting
from convsvc.units import counted

MOST_NAMED = 3


def waiting_of(session: Session, row: JobRow, silence_s: float, tenant: str | None = None) -> Waiting | None:
    """Why the job waits, as `tenant` may know it (None: all); None if it goes on, or has ended.

    An executor that was not heard of for `silence_s` is gone.
    """
    if row.state == "queued":
        return _in_queue(session, row, silence_s, tenant)
    if row.state not in LEASED:
        return _after(session, row) if row.state == "blocked" else None
    now = now_of(session)
    if row.lease_until is None or row.lease_until < now:
        return _without_executor(session, row, silence_s)
    if row.waits:
        return Waiting(row.waits["reason"], row.waits["text"], _time(row.waits.get("since")))
    if row.state == "planning" and not row.phase:
        return Waiting("engine-starts", f"executor {row.executor} has taken the job and opens its engine", row.started_at)
    return None


def alive(session: Session, silence_s: float) -> list[ExecutorRow]:
    """The executors that were heard of within `silence_s` and have not ended."""
    since = now_of(session) - timedelta(seconds=silence_s)
    query = select(ExecutorRow).where(ExecutorRow.left_at.is_(None), ExecutorRow.heartbeat_at >= since)
    return list(session.scalars(query.order_by(ExecutorRow.name)))


def _in_queue(session: Session, row: JobRow, silence_s: float, tenant: str | None) -> Waiting:
    position, of = _position(session, row)
    there = alive(session, silence_s)
    return (
        _no_executor(session, row, there, position)
        or _too_new(row, there, position)
        or _engine_away(there, position)
        or _quota(session, row, position)
        or _turn(session, row, there, (position, of), tenant)
    )


def _after(session: Session, row: JobRow) -> Waiting:
    others = [f"{one.id} ({one.state})" for one in open_predecessors(session, row.id)]
    shown = ", ".join(others[:MOST_NAMED]) + (", ..." if len(others) > MOST_NAMED else "")
    return Waiting("after", f"it comes after {counted(len(others), 'job')}: {shown}", row.queued_at)


def _without_executor(session: Session, row: JobRow, silence_s: float) -> Waiting:
    there = alive(session, silence_s)
    nobody = _no_executor(session, row, there, None) or _engine_away(there, None)
    if nobody:
        return nobody
    if row.lease_until is None:
        return Waiting("executor-comes", "an executor takes the job up within seconds, to remove what is staged", None)
    text = f"executor {row.executor}, which has the job, is silent; another one takes it up within seconds"
    return Waiting("executor-silent", text, row.lease_until)


def _no_executor(session: Session, row: JobRow, there: list[ExecutorRow], position: int | None) -> Waiting | None:
    if there:
        return None
    last = session.execute(select(func.max(ExecutorRow.heartbeat_at))).scalar_one()
    text = "no executor is alive" if last else "no executor is alive, nor was one within a day"
    return Waiting("no-executor", f"{text}: start one with `convsvc executor`", last or row.queued_at, position)


def _too_new(row: JobRow, there: list[ExecutorRow], position: int) -> Waiting | None:
    # An executor that does not say what it reads is older than that question.
    if any(row.spec_version <= (one.about or {}).get("spec_version", row.spec_version) for one in there):
        return None
    versions = sorted({str((one.about or {}).get("version")) for one in there})
    text = f"all executors are too old for this job (version {', '.join(versions)}): it waits for a newer one"
    return Waiting("version", text, row.queued_at, position)


def _engine_away(there: list[ExecutorRow], position: int | None) -> Waiting | None:
    away = [one.about for one in there if one.about and one.about.get("away")]
    if not away or len(away) < len(there):
        return None
    first = min(away, key=lambda about: str(about.get("away_since")))
    return Waiting("engine-away", str(first["away"]).splitlines()[0], _time(first.get("away_since")), position)


def _quota(session: Session, row: JobRow, position: int) -> Waiting | None:
    limits = session.get(TenantRow, row.tenant)
    bound = limits.most_running_jobs if limits else None
    if bound is None or (running := running_jobs(session, row.tenant).get(row.tenant, 0)) < bound:
        return None
    return Waiting("quota", f"tenant {row.tenant} has {counted(running, 'job')} running, as many as it may", row.queued_at, position)


def _turn(session: Session, row: JobRow, there: list[ExecutorRow], place: tuple[int, int], tenant: str | None) -> Waiting:
    position, of = place
    jobs = session.execute(
        select(JobRow.id, JobRow.tenant).where(JobRow.state.in_(sorted(LEASED)), JobRow.executor.is_not(None)).order_by(JobRow.id)
    ).all()
    at_once = sum((one.about or {}).get("jobs_at_once", 1) for one in there)
    others = session.execute(
        select(func.count(func.distinct(JobRow.tenant))).where(JobRow.state == "queued", JobRow.tenant != row.tenant)
    ).scalar_one()
    text = f"position {position} of {of} in the queue"
    text += f" of tenant {row.tenant}, which takes turns with {others} other{'s' if others > 1 else ''}" if others else ""
    if len(jobs) >= at_once:
        named = [job.id for job in jobs if tenant in {None, job.tenant}][:MOST_NAMED]
        shown = f" ({', '.join(named)}{', ...' if len(jobs) > len(named) else ''})" if named else ""
        count = len(there)
        text += f"; {'the executor is' if count == 1 else f'all {count} executors are'} busy with {counted(len(jobs), 'job')}{shown}"
    return Waiting("queue", text, row.queued_at, position)


def _position(session: Session, row: JobRow) -> tuple[int, int]:
    """The job's place in its tenant's queue, from 1, and how many there are."""
    mine = (JobRow.state == "queued", JobRow.tenant == row.tenant)
    older = or_(JobRow.queued_at < row.queued_at, and_(JobRow.queued_at == row.queued_at, JobRow.id < row.id))
    ahead = or_(JobRow.priority > row.priority, and_(JobRow.priority == row.priority, older))
    before = session.execute(select(func.count()).where(*mine, ahead)).scalar_one()
    return before + 1, session.execute(select(func.count()).where(*mine)).scalar_one()


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
