"""The users' side of the job store: submit, look, cancel, retry. The executor's side is `claims.py`."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from convsvc.errors import TargetBusy
from convsvc.service.changes import add_event, advance, locked_job, now_utc, same_place
from convsvc.service.database import Database
from convsvc.service.errors import KeyReused, NoSuchJob
from convsvc.service.ids import new_job_id
from convsvc.service.models import EventRow, ExecutorRow, JobRow, LogRow, TaskRow
from convsvc.service.views import EventView, JobPage, JobView, LogLine, Progress, TaskView
from convsvc.spec import Job, dump_job


class Store:
    """Jobs in a database. Every method is one transaction; safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def submit(self, job: Job, key: str | None = None) -> tuple[JobView, bool]:
        """Queue the job; True says that it is new, False that `key` was seen before with the same job.

        Raises TargetBusy if an active job has the same target, KeyReused if `key` came before with another job.
        """
        digest = request_hash(job)
        try:
            with self.database.writing() as session:
                known = _by_key(session, key, digest)
                return (job_view(known), False) if known else (job_view(_insert(session, job, key, digest)), True)
        except IntegrityError:
            return self._explain_refusal(job, key, digest), False

    def job(self, job_id: str) -> JobView:
        """Raises NoSuchJob."""
        with self.database.reading() as session:
            return job_view(_existing(session, job_id))

    def jobs(self, *, state: str | None = None, limit: int = 50, cursor: str | None = None) -> JobPage:
        """Jobs, newest first, in one state or all; `cursor` is the last page's `next_cursor`."""
        query = select(JobRow).order_by(JobRow.id.desc()).limit(limit + 1)
        if state:
            query = query.where(JobRow.state == state)
        if cursor:
            query = query.where(JobRow.id < cursor)
        with self.database.reading() as session:
            rows = [job_view(row) for row in session.scalars(query)]
        return JobPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)

    def tasks(self, job_id: str) -> list[TaskView]:
        """The current run's tasks in order; empty until it is planned. Raises NoSuchJob."""
        query = select(TaskRow).where(TaskRow.job_id == job_id).order_by(TaskRow.number)
        with self.database.reading() as session:
            _existing(session, job_id)
            return [_task_view(row) for row in session.scalars(query)]

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> list[EventView]:
        """What happened after the event `after`, oldest first. Raises NoSuchJob."""
        query = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > after).order_by(EventRow.seq).limit(limit)
        with self.database.reading() as session:
            _existing(session, job_id)
            return [EventView(row.seq, row.at, row.kind, row.data) for row in session.scalars(query)]

    def logs(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """The lines after the line `after`, oldest first. Raises NoSuchJob."""
        query = select(LogRow).where(LogRow.job_id == job_id, LogRow.seq > after).order_by(LogRow.seq).limit(limit)
        with self.database.reading() as session:
            _existing(session, job_id)
            return [LogLine(row.seq, row.at, row.level, row.message, row.task) for row in session.scalars(query)]

    def cancel(self, job_id: str) -> JobView:
        """Ask the job to stop; asking twice is the same as once. Raises NoSuchJob, IllegalTransition if it has ended otherwise."""
        with self.database.writing() as session:
            row = locked_job(session, job_id)
            advance(session, row, "cancel")
            row.cancel_requested = True
            return job_view(row)

    def retry(self, job_id: str) -> JobView:
        """Queue a failed or canceled job again; after a failure it goes on from what was written, a cancel left nothing.

        Raises NoSuchJob, IllegalTransition, TargetBusy.
        """
        try:
            with self.database.writing() as session:
                row = locked_job(session, job_id)
                advance(session, row, "retry")
                session.flush()
                return job_view(row)
        except IntegrityError:
            raise self._busy(self.job(job_id).target) from None

    def newest_heartbeat(self) -> datetime | None:
        """When an executor was last heard of; None if there never was one."""
        with self.database.reading() as session:
            return session.scalars(select(ExecutorRow.heartbeat_at).order_by(ExecutorRow.heartbeat_at.desc()).limit(1)).first()

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that any job is in."""
        with self.database.reading() as session:
            rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
            return {row[0]: row[1] for row in rows}

    def _explain_refusal(self, job: Job, key: str | None, digest: str) -> JobView:
        # A unique constraint said no: either the key came twice at the same moment, or the target is taken.
        with self.database.reading() as session:
            known = _by_key(session, key, digest)
            if known:
                return job_view(known)
        raise self._busy(job.target.path)

    def _busy(self, target: str) -> TargetBusy:
        with self.database.reading() as session:
            holder = session.scalars(select(JobRow).where(JobRow.active_target == same_place(target))).first()
            name, state = (holder.id, holder.state) if holder else ("that has just ended", "unknown")
        return TargetBusy(
            f"{target} is the target of job {name}, which is {state}",
            do=f"wait for it, cancel it (convsvc cancel {name}), or choose another target" if holder else "try again",
            details={"target": target, "job": name, "state": state},
        )


def request_hash(job: Job) -> str:
    """The same for two requests that ask for the same job."""
    return hashlib.sha256(json.dumps(dump_job(job), sort_keys=True).encode()).hexdigest()


def job_view(row: JobRow) -> JobView:
    return JobView(
        id=row.id,
        name=row.name,
        model_type=row.model_type,
        state=row.state,
        run=row.run,
        source=row.source_path,
        target=row.target_path,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        progress=Progress(row.phase, row.tasks_done, row.tasks_total, row.bytes_done, row.bytes_total),
        executor=row.executor,
        plan=row.plan,
        result=row.result,
        error=row.error,
        spec=row.spec,
    )


def _insert(session: Session, job: Job, key: str | None, digest: str) -> JobRow:
    row = JobRow(
        id=new_job_id(),
        name=job.name,
        spec=dump_job(job),
        model_type=job.model_type,
        source_path=job.source.path,
        target_path=job.target.path,
        active_target=same_place(job.target.path),
        idempotency_key=key,
        request_hash=digest,
        state="queued",
        created_at=now_utc(),
        last_event=0,
        last_log=0,
    )
    session.add(row)
    session.flush()
    add_event(session, row, "submitted", {"state": "queued", "run": 1})
    return row


def _by_key(session: Session, key: str | None, digest: str) -> JobRow | None:
    row = session.scalars(select(JobRow).where(JobRow.idempotency_key == key)).first() if key else None
    if row is not None and row.request_hash != digest:
        raise KeyReused(
            f"the Idempotency-Key {key!r} was used for another job, {row.id}",
            do="send a new key with a new job",
            details={"job": row.id, "key": key},
        )
    return row


def _existing(session: Session, job_id: str) -> JobRow:
    row = session.get(JobRow, job_id)
    if row is None:
        raise NoSuchJob(f"there is no job {job_id}", details={"job": job_id})
    return row


def _task_view(row: TaskRow) -> TaskView:
    return TaskView(
        row.number, row.name, row.state, row.attempt, row.bytes, row.seconds, row.worker, row.error, row.started_at, row.ended_at
    )
