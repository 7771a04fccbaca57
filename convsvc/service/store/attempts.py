"""Every attempt at a task of a job, with who made it, how long he was believed alive, and how it ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from convsvc.service.store.clock import now_of
from convsvc.service.store.models import AttemptRow, JobRow, TaskRow

DONE, FAILED, LOST = "done", "failed", "lost"


def start_attempt(session: Session, row: JobRow, task: int, attempt: int, worker: str | None) -> None:
    """An attempt begins; it lives as long as the job's lease. One that was still open is lost, or it would not be tried again."""
    now = now_of(session)
    _end(session, row, task, LOST)
    found = session.get(AttemptRow, (row.id, row.run, task, row.fence, attempt))
    if found is None:  # a start that is reported twice is one attempt
        session.add(_attempt(row, task, attempt, now, worker=worker))
    else:
        found.ended_at = found.outcome = found.error = None


def finish_attempt(session: Session, row: JobRow, task: TaskRow, worker: str | None) -> None:
    """The task is done. One that was not seen to start has an attempt all the same, without a length."""
    ended = _end(session, row, task.number, DONE, worker=worker)
    if not ended and task.state != DONE:
        now = now_of(session)
        session.add(_attempt(row, task.number, max(1, task.attempt), now, worker=worker, ended_at=now, outcome=DONE))


def fail_attempt(session: Session, row: JobRow, task: int, error: dict[str, Any], worker: str | None) -> None:
    _end(session, row, task, FAILED, error=error, worker=worker)


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


def _attempt(row: JobRow, task: int, attempt: int, now: datetime, **more: Any) -> AttemptRow:
    until = row.lease_until or now
    key = {"job_id": row.id, "run": row.run, "task": task, "fence": row.fence, "attempt": attempt}
    return AttemptRow(**key, started_at=now, heartbeat_at=now, lease_until=until, **more)


def _end(session: Session, row: JobRow, task: int, outcome: str, **more: Any) -> bool:
    session.flush()
    values = {name: value for name, value in more.items() if value is not None}
    query = _open(row).where(AttemptRow.task == task).values(ended_at=now_of(session), outcome=outcome, **values)
    result = session.execute(query)
    assert isinstance(result, CursorResult)
    return result.rowcount > 0


def _open(row: JobRow) -> Any:
    return update(AttemptRow).where(AttemptRow.job_id == row.id, AttemptRow.run == row.run, AttemptRow.ended_at.is_(None))
