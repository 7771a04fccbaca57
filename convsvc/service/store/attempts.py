"""Every attempt at a task of a job, with who made it, how long he was believed alive, and how it ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from convsvc.service.store.clock import now_of
from convsvc.service.store.models import AttemptRow, JobRow

DONE, FAILED, LOST = "done", "failed", "lost"


def extend_attempts(session: Session, row: JobRow) -> None:
    """The executor lives, and so do the attempts that it follows."""
    session.execute(_open(row).values(heartbeat_at=now_of(session), lease_until=row.lease_until))


def lose_attempts(session: Session, row: JobRow) -> None:
    """Nobody will report what is still open of the job's run: its executor has died, or has stopped it."""
    with session.no_autoflush:
        session.execute(_open(row).values(ended_at=now_of(session), outcome=LOST))


def attempts_of(session: Session, job_id: str) -> list[AttemptRow]:
    """All attempts at the job's tasks, of all its runs, in the order in which they began."""
    query = select(AttemptRow).where(AttemptRow.job_id == job_id)
    return list(session.scalars(query.order_by(AttemptRow.run, AttemptRow.fence, AttemptRow.started_at, AttemptRow.task)))


def newest_attempts(session: Session, job_id: str, *, bad: bool, limit: int) -> list[AttemptRow]:
    """The last attempts at the job's tasks, of all its runs, newest first; `bad` ones alone are those that failed or were lost."""
    query = select(AttemptRow).where(AttemptRow.job_id == job_id)
    if bad:
        query = query.where(AttemptRow.outcome.in_((FAILED, LOST)))
    return list(session.scalars(query.order_by(AttemptRow.started_at.desc(), AttemptRow.task).limit(limit)))


def new_attempt(row: JobRow, task: int, attempt: int, now: datetime, **more: Any) -> AttemptRow:
    """An attempt begins; it lives as long as the job's lease."""
    until = row.lease_until or now
    key = {"job_id": row.id, "run": row.run, "task": task, "fence": row.fence, "attempt": attempt}
    return AttemptRow(**key, started_at=now, heartbeat_at=now, lease_until=until, **more)


def _open(row: JobRow) -> Any:
    return update(AttemptRow).where(AttemptRow.job_id == row.id, AttemptRow.run == row.run, AttemptRow.ended_at.is_(None))
