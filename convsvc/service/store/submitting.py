"""Putting a job into the queue, within a transaction: what a submission and a batch of them share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from convsvc.errors import JobError
from convsvc.service.access.identity import Caller
from convsvc.service.errors import KeyReused
from convsvc.service.observe.tracing import traced
from convsvc.service.store.changes import existing_job, not_to_come_after, writes
from convsvc.service.store.clock import now_of
from convsvc.service.store.models import DependencyRow, EventRow, JobRow
from convsvc.spec import Job, dump_job


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job that is to be submitted: its id, the `same_place` of its target, the idempotency key it came with, and the job's digest."""

    id: str
    job: Job
    place: str
    key: str | None
    digest: str
    caller: Caller


def request_hash(job: Job) -> str:
    """The same for two requests that ask for the same job."""
    return hashlib.sha256(json.dumps(dump_job(job), sort_keys=True).encode()).hexdigest()


def insert_job(session: Session, request: JobRequest, *, batch: str | None = None, siblings: Sequence[str] = ()) -> JobRow:
    """Queue the job, or block it until those after which it comes have succeeded; `siblings` are the batch's jobs before it.

    Raises NoSuchJob, UnclearJob, JobError for a job that it cannot come after; IntegrityError for a target or key that is taken.
    """
    job, now = request.job, now_of(session)
    before = [_predecessor(session, one, request.caller, siblings) for one in job.after or ()]
    state = "blocked" if any(one.state != "succeeded" for one in before) else "queued"
    row = _row_of(request, state, now, batch)
    session.add(row)
    session.flush()
    session.add_all(DependencyRow(job_id=row.id, after_id=after) for after in sorted({one.id for one in before}))
    session.add(EventRow(job_id=row.id, seq=1, at=now, kind="submitted", data={"state": state, "run": 1, **traced()}))
    return row


def _row_of(request: JobRequest, state: str, now: Any, batch: str | None) -> JobRow:
    job, spec = request.job, dump_job(request.job)
    return JobRow(
        id=request.id,
        tenant=request.caller.tenant,
        submitted_by=request.caller.name,
        priority=job.priority,
        name=job.name,
        labels=job.labels,
        batch_id=batch,
        spec=spec,
        model_type=job.model_type,
        source_path=job.source.path,
        target_path=job.target.path,
        active_target=request.place if writes(spec) else None,
        idempotency_key=request.key,
        request_hash=request.digest,
        state=state,
        created_at=now,
        queued_at=now,
        last_event=1,
        last_log=0,
    )


def job_by_key(session: Session, request: JobRequest) -> JobRow | None:
    """The job that the tenant's key made before. Raises KeyReused if that is another one."""
    if request.key is None:
        return None
    query = select(JobRow).where(JobRow.tenant == request.caller.tenant, JobRow.idempotency_key == request.key)
    row = session.scalars(query).first()
    if row is not None and row.request_hash != request.digest:
        raise KeyReused(
            f"the Idempotency-Key {request.key!r} was used for another job, {row.id}",
            do="send a new key with a new job",
            details={"job": row.id, "key": request.key},
        )
    return row


def _predecessor(session: Session, said: str, caller: Caller, siblings: Sequence[str]) -> JobRow:
    """A job of the caller's tenant by its id, or a sibling by its number; it cannot end before this transaction does."""
    job_id = _sibling(said, siblings) if said.startswith("#") else said
    row = existing_job(session, job_id, caller.tenant)
    session.refresh(row, with_for_update={"read": True})
    if row.state in {"failed", "canceled"}:
        refused = not_to_come_after(row)
        raise JobError(f"after: {refused.message}", do=refused.do, details=refused.details)
    return row


def _sibling(said: str, siblings: Sequence[str]) -> str:
    number = int(re.sub("[^0-9]", "", said))
    if number < len(siblings):
        return siblings[number]
    there = f"before this one there are #0 to #{len(siblings) - 1}" if siblings else "there is none"
    raise JobError(
        f"after: {said} is no job of a batch that comes before this one", facts=[there], do="write a job's id, or order the jobs"
    )
