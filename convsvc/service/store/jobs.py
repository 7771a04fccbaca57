"""The users' side of the job store: submit, look, cancel, retry. The executor's side is `claims.py`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from convsvc.errors import TargetBusy
from convsvc.service.access.identity import LOOPBACK, Caller
from convsvc.service.errors import IllegalTransition
from convsvc.service.store.attempts import newest_attempts
from convsvc.service.store.changes import advance, existing_job, locked_job, not_to_come_after, open_predecessors, same_place
from convsvc.service.store.clock import now_of
from convsvc.service.store.database import Database
from convsvc.service.store.ids import new_job_id
from convsvc.service.store.models import EventRow, ExecutorRow, JobRow, LogRow, TaskRow
from convsvc.service.store.quotas import allowance, check_quotas, with_limits_locked
from convsvc.service.store.retrying import retried
from convsvc.service.store.shown import attempt_view, job_view, task_view
from convsvc.service.store.submitting import JobRequest, insert_job, job_by_key, request_hash
from convsvc.service.store.task_logs import levels_from
from convsvc.service.store.waiting import waiting_of
from convsvc.service.store.wanted import EVERYTHING, Wanted
from convsvc.service.views import AttemptView, EventView, JobPage, JobView, LogLine, TaskView
from convsvc.spec import Job

_ELSEWHERE = "choose another target"


class Store:
    """Jobs in a database. Every method is one transaction; safe to use from several threads.

    `tenant` is whose jobs the caller sees, None for everybody's: to him another tenant's job is one that does not exist.
    """

    def __init__(self, database: Database, silence_s: float = 30) -> None:
        self.database, self.silence_s = database, silence_s

    def submit(self, job: Job, key: str | None = None, *, caller: Caller = LOOPBACK) -> tuple[JobView, bool]:
        """Queue the job for the caller's tenant; True says that it is new, False that `key` was seen before with the same job.

        Raises TargetBusy if an active job has the same target, KeyReused if the tenant's `key` came before with another job,
        QuotaReached if the tenant has as many jobs queued, or bytes to be written, as it may have; NoSuchJob, JobError for one that it
        cannot come after.
        """
        # Ahead of the transaction: a file system that hangs while links are resolved may not keep others from the database.
        request = JobRequest(new_job_id(), job, same_place(job.target.path), key, request_hash(job), caller)
        try:
            return self._submit(request)
        except IntegrityError:
            return self._explain_refusal(request)

    @retried
    def _submit(self, request: JobRequest) -> tuple[JobView, bool]:
        with self.database.writing() as session:
            limits = with_limits_locked(session, request.caller.tenant)
            known = job_by_key(session, request)
            if known:
                return job_view(known), False
            if limits:
                check_quotas(session, limits)
            return job_view(insert_job(session, request)), True

    @retried
    def job(self, job_id: str, *, tenant: str | None = None) -> JobView:
        """The job with that id, or the only one whose id begins so; with why it waits, if it does. Raises NoSuchJob, UnclearJob."""
        with self.database.reading() as session:
            row = existing_job(session, job_id, tenant)
            return job_view(row, waiting_of(session, row, self.silence_s, tenant))

    @retried
    def glance(self, job_id: str) -> JobView:
        """The job without why it waits: for who looks several times a second. Raises NoSuchJob."""
        with self.database.reading() as session:
            return job_view(existing_job(session, job_id))

    @retried
    def stamps(self, job_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Of each of the jobs that is there, what differs once it has an event, a line, another state or another pace."""
        columns = (JobRow.id, JobRow.last_event, JobRow.last_log, JobRow.state, JobRow.fence, JobRow.pace)
        found: dict[str, tuple[Any, ...]] = {}
        with self.database.reading() as session:
            for at in range(0, len(job_ids), 1000):
                rows = session.execute(select(*columns).where(JobRow.id.in_(job_ids[at : at + 1000])))
                found |= {row[0]: (*row[1:5], (row[5] or {}).get("at")) for row in rows}
        return found

    @retried
    def jobs(
        self,
        wanted: Wanted = EVERYTHING,
        *,
        state: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tenant: str | None = None,
    ) -> JobPage:
        """Jobs, newest first: those that are `wanted`, in one state or all; `cursor` is the last page's `next_cursor`."""
        query = select(JobRow).where(*wanted.conditions()).order_by(JobRow.id.desc()).limit(limit + 1)
        if tenant is not None:
            query = query.where(JobRow.tenant == tenant)
        if state:
            query = query.where(JobRow.state == state)
        if cursor:
            query = query.where(JobRow.id < cursor)
        with self.database.reading() as session:
            rows = [job_view(row) for row in session.scalars(query)]
        return JobPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)

    @retried
    def tasks(
        self, job_id: str, *, tenant: str | None = None, states: Collection[str] = (), after: int = -1, limit: int | None = None
    ) -> list[TaskView]:
        """The current run's tasks in order, those after the number `after`; empty until it is planned. Raises NoSuchJob."""
        with self.database.reading() as session:
            row = existing_job(session, job_id, tenant)
            query = select(TaskRow).where(TaskRow.job_id == row.id, TaskRow.number > after).order_by(TaskRow.number).limit(limit)
            if states:
                query = query.where(TaskRow.state.in_(sorted(states)))
            return [task_view(task) for task in session.scalars(query)]

    @retried
    def task_counts(self, job_id: str, *, tenant: str | None = None) -> dict[str, int]:
        """How many of the current run's tasks are in each state. Raises NoSuchJob."""
        with self.database.reading() as session:
            row = existing_job(session, job_id, tenant)
            query = select(TaskRow.state, func.count()).where(TaskRow.job_id == row.id).group_by(TaskRow.state)
            return {row[0]: row[1] for row in session.execute(query)}

    @retried
    def attempts(self, job_id: str, *, tenant: str | None = None, bad: bool = False, limit: int = 100) -> list[AttemptView]:
        """The newest attempts at the job's tasks, of all its runs; with `bad` those that failed or were lost. Raises NoSuchJob."""
        with self.database.reading() as session:
            row = existing_job(session, job_id, tenant)
            return [attempt_view(one) for one in newest_attempts(session, row.id, bad=bad, limit=limit)]

    @retried
    def events(self, job_id: str, *, after: int = 0, limit: int = 500, tenant: str | None = None) -> list[EventView]:
        """What happened after the event `after`, oldest first. Raises NoSuchJob."""
        with self.database.reading() as session:
            job = existing_job(session, job_id, tenant)
            query = select(EventRow).where(EventRow.job_id == job.id, EventRow.seq > after).order_by(EventRow.seq).limit(limit)
            return [EventView(row.seq, row.at, row.kind, row.data) for row in session.scalars(query)]

    @retried
    def logs(
        self,
        job_id: str,
        *,
        after: int = 0,
        limit: int = 1000,
        tenant: str | None = None,
        task: int | None = None,
        level: str | None = None,
        tail: bool = False,
    ) -> list[LogLine]:
        """The first `limit` lines after the line `after`, or the last ones with `tail`; oldest first.

        Of one task, or of `level` and above, where told so. Raises NoSuchJob.
        """
        wanted = [LogRow.seq > after]
        if task is not None:
            wanted.append(LogRow.task == task)
        if level is not None:
            wanted.append(LogRow.level.in_(levels_from(level)))
        with self.database.reading() as session:
            job = existing_job(session, job_id, tenant)
            query = select(LogRow).where(LogRow.job_id == job.id, *wanted)
            rows = list(session.scalars(query.order_by(LogRow.seq.desc() if tail else LogRow.seq).limit(limit)))
            return [LogLine(row.seq, row.at, row.level, row.message, row.task, row.attempt) for row in (reversed(rows) if tail else rows)]

    def cancel(self, job_id: str, *, tenant: str | None = None) -> JobView:
        """Ask the job to stop; asking twice is the same as once. One that waits or has failed with something staged gives that back.

        Raises NoSuchJob, IllegalTransition if it has ended otherwise, TargetBusy if it failed and its target is another job's by now.
        """
        return self._change(self.job(job_id, tenant=tenant), tenant, _cancel)

    def retry(self, job_id: str, *, tenant: str | None = None) -> JobView:
        """Queue a failed or canceled job again; after a failure it goes on from what was written, a cancel left nothing.

        Raises NoSuchJob, IllegalTransition, TargetBusy, QuotaReached.
        """
        return self._change(self.job(job_id, tenant=tenant), tenant, _retry)

    @retried
    def executor_silence_s(self) -> float | None:
        """For how long no executor was heard of, by the database's clock as heartbeats are; None if there is none."""
        with self.database.reading() as session:
            there = select(ExecutorRow.heartbeat_at).where(ExecutorRow.left_at.is_(None))
            last = session.scalars(there.order_by(ExecutorRow.heartbeat_at.desc()).limit(1)).first()
            return None if last is None else (now_of(session) - last).total_seconds()

    @retried
    def allowance(self, tenant: str) -> tuple[dict[str, float | None], dict[str, int]]:
        """A tenant's limits, None where it has none, and what counts against them now; both by the limits' names."""
        with self.database.reading() as session:
            return allowance(session, tenant)

    @retried
    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that any job is in."""
        with self.database.reading() as session:
            rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
            return {row[0]: row[1] for row in rows}

    @retried
    def _change(self, job: JobView, tenant: str | None, change: Callable[[Session, JobRow, str], None]) -> JobView:
        place = same_place(job.target)  # ahead of the transaction, as in `submit`
        try:
            with self.database.writing() as session:
                row = locked_job(session, job.id, tenant)
                change(session, row, place)
                session.flush()
                return job_view(row)
        except IntegrityError:
            raise self._busy(job.target, tenant) from None

    @retried
    def _explain_refusal(self, request: JobRequest) -> tuple[JobView, bool]:
        # A unique constraint said no: the key came twice at the same moment, or the target is taken, or a transaction that was
        # tried again, since its connection was lost, had been committed after all.
        with self.database.reading() as session:
            mine = session.get(JobRow, request.id)
            known = mine or job_by_key(session, request)
            if known:
                return job_view(known), known is mine
        raise self._busy(request.job.target.path, request.caller.sees)

    @retried
    def busy(self, target: str, tenant: str | None) -> TargetBusy | None:
        """Why a job with this target would be refused now; None if no job has it. `tenant` is told of its own jobs only (None: of all)."""
        with self.database.reading() as session:
            is_taken = session.execute(select(exists().where(JobRow.active_target == same_place(target)))).scalar_one()
        return self._busy(target, tenant) if is_taken else None

    def _busy(self, target: str, tenant: str | None) -> TargetBusy:
        with self.database.reading() as session:
            holder = session.scalars(select(JobRow).where(JobRow.active_target == same_place(target))).first()
            if holder is None:
                return TargetBusy(f"{target} was the target of a job that has just ended", do="try again", details={"target": target})
            if tenant not in {None, holder.tenant}:  # whose it is, and what it is called, is not for him to know
                return TargetBusy(f"{target} is the target of another tenant's job", do=_ELSEWHERE, details={"target": target})
            return TargetBusy(
                f"{target} is the target of job {holder.id}, which is {holder.state}",
                do=f"wait for it, cancel it (convsvc cancel {holder.id}), or {_ELSEWHERE}",
                details={"target": target, "job": holder.id, "state": holder.state},
            )


def _cancel(session: Session, row: JobRow, place: str) -> None:
    staged = row.resumable and row.state in {"queued", "failed"}
    advance(session, row, "discard" if staged else "cancel", place=place)
    row.cancel_requested = True


def _retry(session: Session, row: JobRow, place: str) -> None:
    limits = with_limits_locked(session, row.tenant)
    before = open_predecessors(session, row.id)
    for one in before:
        session.refresh(one, with_for_update={"read": True})  # it may not end between this look and the end of this transaction
    ended = next((one for one in before if one.state in {"failed", "canceled"}), None)
    if ended is not None:
        refused = not_to_come_after(ended)
        raise IllegalTransition(refused.message, do=refused.do, details=refused.details)
    advance(session, row, "block" if any(one.state != "succeeded" for one in before) else "retry", place=place)
    if limits:
        session.flush()
        check_quotas(session, limits, more=0)  # it is counted already
