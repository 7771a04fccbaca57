"""Changing a job within a transaction: the one place where an event meets the state machine and the tables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from convsvc.errors import ServiceError
from convsvc.service.errors import IllegalTransition, NoSuchJob, UnclearJob
from convsvc.service.store.announcing import announce_end
from convsvc.service.store.attempts import lose_attempts
from convsvc.service.store.clock import now_of
from convsvc.service.store.models import DependencyRow, EventRow, JobRow, LogRow, TaskRow
from convsvc.service.store.states import ENDED, Instruction, JobEvent, job_step
from convsvc.service.store.tallies import Tally, add_tallies, job_tallies

PUBLISH = "publish"  # the driver's last phase: the target is moved into place, in one step
ID_LENGTH, SHORTEST_ID = 26, 4
HISTORY = 10  # state changes that a refused one is told with


def now_utc() -> datetime:
    return datetime.now(timezone.utc)


def same_place(path: str) -> str:
    """The name under which two spellings of one target path are the same: absolute, symlinks resolved."""
    return os.path.realpath(path)


def writes(spec: dict[str, Any]) -> bool:
    """Whether a job writes to its target, which nobody else may write to meanwhile."""
    return bool(spec.get("mode", "convert") == "convert")


def existing_job(session: Session, job_id: str, tenant: str | None = None, *, lock: bool = False) -> JobRow:
    """The job with that id, or the only one whose id begins so; of `tenant`'s jobs, or of all. Raises NoSuchJob, UnclearJob."""
    row = session.get(JobRow, job_id, with_for_update=lock or None, populate_existing=lock)
    if row is None and (whole := _whole_id(session, job_id, tenant)):
        row = session.get(JobRow, whole, with_for_update=lock or None, populate_existing=lock)
    if row is None or tenant not in {None, row.tenant}:
        do = f"`convsvc jobs` lists them; an id may be cut to {SHORTEST_ID} characters and more, as long as it fits one job"
        raise NoSuchJob(f"there is no job {job_id}", do=do, details={"job": job_id})
    return row


def _whole_id(session: Session, start: str, tenant: str | None) -> str | None:
    """The id that begins so, of the jobs that `tenant` sees. Raises UnclearJob if there are several."""
    if not SHORTEST_ID <= len(start) < ID_LENGTH or not start.isascii() or not start.isalnum():
        return None
    start = start.lower()
    # By the index: LIKE would need one of another kind on PostgreSQL. "z" is the last letter that an id has, in every collation.
    query = (
        select(JobRow.id).where(JobRow.id >= start, JobRow.id <= start.ljust(ID_LENGTH, "z")).order_by(JobRow.id.desc()).limit(HISTORY + 1)
    )
    found = [one for one in session.scalars(query if tenant is None else query.where(JobRow.tenant == tenant)) if one.startswith(start)]
    if len(found) > 1:
        raise UnclearJob(
            f"{start} is the beginning of several jobs' ids",
            facts=[*found[:HISTORY], *(["and more"] if len(found) > HISTORY else [])],
            do="write more of the one that is meant",
            details={"job": start, "jobs": found[:HISTORY]},
        )
    return found[0] if found else None


def locked_job(session: Session, job_id: str, tenant: str | None = None) -> JobRow:
    """The job, locked until the transaction ends. Raises NoSuchJob, also if it is not `tenant`'s."""
    return existing_job(session, job_id, tenant, lock=True)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who takes a job, and for how many seconds."""

    executor: str
    seconds: float


def advance(session: Session, row: JobRow, event: JobEvent, *, lease: Lease | None = None, place: str | None = None, **facts: Any) -> None:
    """Let `event` happen to the job: new state, what the machine instructs, and an event in its history, with `facts`.

    `place` is `same_place` of its target, where the event may take that again.

    Raises IllegalTransition, with what happened to the job before.
    """
    add_tallies(session, row.tenant, _advance(session, row, event, lease=lease, place=place, **facts))


def _advance(
    session: Session, row: JobRow, event: JobEvent, *, lease: Lease | None = None, place: str | None = None, **facts: Any
) -> list[Tally]:
    """What `advance` does but for the tallies, which are added once in a transaction: the job's, and those of jobs that end with it."""
    before = row.state
    try:
        step = job_step(before, event, job=row.id)
    except IllegalTransition as refused:
        raise _with_history(session, row, refused) from None
    row.state = step.state
    if row.state == "queued" and event != "release":  # a job that was put back keeps its place: it waits longest
        row.queued_at = now_of(session)
    first, ends = row.started_at is None, "stamp_end" in step.instructions and row.ended_at is None
    for instruction in step.instructions:
        _apply(session, row, instruction, lease, place)
    if before != row.state or step.instructions:
        add_event(session, row, "state", {"state": row.state, "before": before, "event": event, "run": row.run, **facts})
    tallies = job_tallies(row, event, now_of(session), ended=ends, first=first)
    return [*tallies, *_tell_followers(session, row)] if ends else tallies


def open_predecessors(session: Session, job_id: str, *, but: str | None = None) -> list[JobRow]:
    """The jobs after which a job comes and that have not succeeded. One that is forgotten had ended, and does not count."""
    query = select(JobRow).join(DependencyRow, DependencyRow.after_id == JobRow.id)
    query = query.where(DependencyRow.job_id == job_id, JobRow.state != "succeeded", JobRow.id != (but or "")).order_by(JobRow.id)
    return list(session.scalars(query))


def _tell_followers(session: Session, row: JobRow) -> list[Tally]:
    """The job has ended: those that were to come after it are queued, or fail. They are its tenant's."""
    query = select(JobRow).join(DependencyRow, DependencyRow.job_id == JobRow.id)
    query = query.where(DependencyRow.after_id == row.id, JobRow.state == "blocked").order_by(JobRow.id)
    tallies: list[Tally] = []
    for follower in session.scalars(query.with_for_update(of=JobRow)).all():
        if row.state != "succeeded":
            follower.error = not_to_come_after(row).as_dict()
            add_log(session, follower, follower.error["message"], level="error")
            tallies += _advance(session, follower, "fail", error=follower.error)
        elif not open_predecessors(session, follower.id, but=row.id):
            add_log(session, follower, f"job {row.id} has succeeded: this one is queued")
            tallies += _advance(session, follower, "unblock")
    return tallies


def not_to_come_after(row: JobRow) -> ServiceError:
    """Why a job that was to come after this one does not begin."""
    what = "was canceled" if row.state == "canceled" else row.state
    return ServiceError(
        f"job {row.id}, after which this one comes, {what}",
        do=f"retry that one (convsvc retry {row.id}), then this one",
        details={"after": row.id, "state": row.state},
    )


def add_event(session: Session, row: JobRow, kind: str, data: dict[str, Any]) -> None:
    row.last_event += 1
    session.add(EventRow(job_id=row.id, seq=row.last_event, at=now_of(session), kind=kind, data=data))


def add_log(
    session: Session,
    row: JobRow,
    message: str,
    *,
    level: str = "info",
    task: int | None = None,
    attempt: int | None = None,
    at: datetime | None = None,
) -> None:
    row.last_log += 1
    at = at or now_of(session)
    session.add(LogRow(job_id=row.id, seq=row.last_log, at=at, level=level, task=task, attempt=attempt, message=message))


def _apply(session: Session, row: JobRow, instruction: Instruction, lease: Lease | None, place: str | None) -> None:
    if instruction in {"take_lease", "drop_lease", "new_run"}:
        row.waits = row.pace = None
    if instruction == "take_lease" and lease:
        lose_attempts(session, row)
        row.executor, row.lease_until = lease.executor, now_of(session) + timedelta(seconds=lease.seconds)
        row.fence, row.started_at = row.fence + 1, row.started_at or now_of(session)
        row.phase = row.phase if row.phase == PUBLISH else ""
    elif instruction == "drop_lease":
        lose_attempts(session, row)
        # The fence moves on, so that an executor which still works on the job finds out at its next word.
        row.executor, row.lease_until, row.fence = None, None, row.fence + 1
        if row.state not in ENDED and row.phase:
            row.claims -= 1  # released in good order: not an executor that died of it
    elif instruction == "hold_target" and writes(row.spec):
        row.active_target = place or same_place(row.target_path)
    elif instruction == "free_target":
        row.active_target = None
    elif instruction == "stamp_end":
        is_told, row.ended_at = row.ended_at is not None, now_of(session)
        if not is_told:  # a run ends once: one that failed, and whose bytes are given back, has been told of
            announce_end(session, row)
    elif instruction == "new_run":
        _new_run(session, row)


def _with_history(session: Session, row: JobRow, refused: IllegalTransition) -> IllegalTransition:
    told = EventRow.kind.in_(("submitted", "state"))
    query = select(EventRow).where(EventRow.job_id == row.id, told).order_by(EventRow.seq.desc()).limit(HISTORY)
    history = [_told(event) for event in reversed(session.scalars(query).all())]
    lines = [f"{step['at']} {step['state']} ({step['event']})" for step in history]
    details = {**refused.details, "history": history}
    return IllegalTransition(refused.message, facts=[*refused.facts, *lines], do=refused.do, details=details)


def _told(event: EventRow) -> dict[str, Any]:
    what = event.data.get("event", event.kind)
    return {"seq": event.seq, "at": event.at.isoformat(timespec="milliseconds"), "state": event.data["state"], "event": what}


def _new_run(session: Session, row: JobRow) -> None:
    row.run, row.claims, row.cancel_requested = row.run + 1, 0, False
    row.started_at = row.ended_at = None
    row.error = row.result = row.plan = None
    row.phase, row.tasks_total, row.tasks_done, row.bytes_total, row.bytes_done = "", 0, 0, 0, 0
    session.execute(delete(TaskRow).where(TaskRow.job_id == row.id))
