"""Batches in the job store: submitted whole or not at all, shown as one, canceled as one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from convsvc.errors import TargetBusy
from convsvc.service.access.identity import Caller
from convsvc.service.batch_views import BatchJob, BatchPage, BatchView
from convsvc.service.batching.rules import hash_of
from convsvc.service.errors import IllegalTransition, KeyReused, NoSuchBatch
from convsvc.service.store.changes import same_place
from convsvc.service.store.clock import now_of
from convsvc.service.store.ids import new_job_id
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import BatchRow, DependencyRow, JobRow
from convsvc.service.store.quotas import check_quotas, with_limits_locked
from convsvc.service.store.retrying import retried
from convsvc.service.store.shown import job_view
from convsvc.service.store.states import ENDED
from convsvc.service.store.submitting import JobRequest, insert_job, request_hash
from convsvc.spec import Job


class Batches:
    """Batches in a database. `tenant` is whose batches the caller sees, None for everybody's."""

    def __init__(self, store: Store) -> None:
        self.store, self.database = store, store.database

    def submit(self, name: str | None, jobs: Sequence[Job], key: str | None = None, *, caller: Caller) -> tuple[BatchView, bool]:
        """Queue all the jobs, or none; True says that the batch is new, False that `key` came before with the same one.

        Raises what submitting any of the jobs raises: TargetBusy, QuotaReached, NoSuchJob, JobError; KeyReused.
        """
        # Ahead of the transaction, as for a single job.
        requests = [JobRequest(new_job_id(), job, same_place(job.target.path), None, request_hash(job), caller) for job in jobs]
        batch = new_job_id()
        try:
            return self._submit(batch, name, requests, key, caller)
        except IntegrityError:
            self._explain_refusal(requests, caller)
            return self._submit(batch, name, requests, key, caller)  # the key came twice at one moment, or the connection was lost

    @retried
    def _submit(self, batch: str, name: str | None, requests: list[JobRequest], key: str | None, caller: Caller) -> tuple[BatchView, bool]:
        digest = hash_of([request.job for request in requests])
        with self.database.writing() as session:
            limits = with_limits_locked(session, caller.tenant)
            known = session.get(BatchRow, batch) or _by_key(session, caller.tenant, key, digest)
            if known is not None:
                return _view(session, known), known.id == batch
            if limits:
                check_quotas(session, limits, more=len(requests))
            row = BatchRow(id=batch, tenant=caller.tenant, submitted_by=caller.name, name=name, idempotency_key=key, request_hash=digest)
            row.created_at = now_of(session)
            session.add(row)
            ids: list[str] = []
            for request in requests:
                ids.append(insert_job(session, request, batch=batch, siblings=tuple(ids)).id)
            session.flush()
            return _view(session, row), True

    def _explain_refusal(self, requests: Sequence[JobRequest], caller: Caller) -> None:
        """Raises TargetBusy for the first job whose target is taken."""
        for number, request in enumerate(requests):
            busy = self.store.busy(request.job.target.path, caller.sees)
            if busy is not None:
                raise TargetBusy(f"job {number} of the batch: {busy.message}", facts=busy.facts, do=busy.do, details=busy.details)

    @retried
    def batch(self, batch_id: str, *, tenant: str | None = None) -> BatchView:
        """The batch with its jobs. Raises NoSuchBatch."""
        with self.database.reading() as session:
            return _view(session, _existing(session, batch_id, tenant), whole=True)

    @retried
    def batches(self, *, limit: int = 50, cursor: str | None = None, tenant: str | None = None) -> BatchPage:
        """Batches without their jobs, newest first; `cursor` is the last page's `next_cursor`."""
        query = select(BatchRow).order_by(BatchRow.id.desc()).limit(limit + 1)
        if tenant is not None:
            query = query.where(BatchRow.tenant == tenant)
        if cursor is not None:
            query = query.where(BatchRow.id < cursor)
        with self.database.reading() as session:
            rows = session.scalars(query).all()
            views = [_view(session, row) for row in rows[:limit]]
        return BatchPage(views, views[-1].id if len(rows) > limit else None)

    def cancel(self, batch_id: str, *, tenant: str | None = None) -> BatchView:
        """Ask every job that has not ended to stop, the last first, so that none fails for one before it. Raises NoSuchBatch."""
        view = self.batch(batch_id, tenant=tenant)
        for job in reversed(view.jobs or ()):
            if job.state not in ENDED:
                self._cancel(job.id)
        return self.batch(batch_id, tenant=tenant)

    def _cancel(self, job_id: str) -> None:
        try:
            self.store.cancel(job_id)
        except IllegalTransition:
            return  # it has ended meanwhile


def _by_key(session: Session, tenant: str, key: str | None, digest: str) -> BatchRow | None:
    if key is None:
        return None
    row = session.scalars(select(BatchRow).where(BatchRow.tenant == tenant, BatchRow.idempotency_key == key)).first()
    if row is not None and row.request_hash != digest:
        raise KeyReused(
            f"the Idempotency-Key {key!r} was used for another batch, {row.id}",
            do="send a new key with a new batch",
            details={"batch": row.id, "key": key},
        )
    return row


def _existing(session: Session, batch_id: str, tenant: str | None) -> BatchRow:
    row = session.get(BatchRow, batch_id)
    if row is None or tenant not in {None, row.tenant}:
        raise NoSuchBatch(f"there is no batch {batch_id}", do="`convsvc batches` lists them", details={"batch": batch_id})
    return row


def _view(session: Session, row: BatchRow, *, whole: bool = False) -> BatchView:
    totals = (JobRow.tasks_done, JobRow.tasks_total, JobRow.bytes_done, JobRow.bytes_total)
    sums = [func.coalesce(func.sum(column), 0) for column in totals]
    query = select(JobRow.state, func.count(), func.max(JobRow.ended_at), *sums).where(JobRow.batch_id == row.id).group_by(JobRow.state)
    found: list[Any] = list(session.execute(query).all())
    states = {one[0]: one[1] for one in found}
    state = _state_of(states)
    tasks_done, tasks_total, bytes_done, bytes_total = (sum(int(one[column]) for one in found) for column in range(3, 7))
    ended: list[datetime] = [one[2] for one in found if one[2] is not None] if state != "running" else []
    jobs = _jobs(session, row.id) if whole else None
    about = (row.id, row.name, row.tenant, row.submitted_by, row.created_at)
    return BatchView(*about, max(ended, default=None), state, states, tasks_done, tasks_total, bytes_done, bytes_total, jobs)


def _state_of(states: dict[str, int]) -> str:
    """Of jobs by their states: how they ended together, or running. Jobs that are forgotten had ended."""
    if set(states) - ENDED:
        return "running"
    return next((state for state in ("failed", "canceled") if states.get(state)), "succeeded")


def _jobs(session: Session, batch_id: str) -> list[BatchJob]:
    rows = session.scalars(select(JobRow).where(JobRow.batch_id == batch_id).order_by(JobRow.id)).all()
    query = select(DependencyRow).join(JobRow, JobRow.id == DependencyRow.job_id).where(JobRow.batch_id == batch_id)
    after: dict[str, list[str]] = {}
    for dependency in session.scalars(query.order_by(DependencyRow.after_id)):
        after.setdefault(dependency.job_id, []).append(dependency.after_id)
    return [_job(row, after.get(row.id, [])) for row in rows]


def _job(row: JobRow, after: list[str]) -> BatchJob:
    view, result = job_view(row), row.result or {}
    about = (row.id, row.name, row.state, row.source_path, row.target_path, row.bytes_done, row.bytes_total)
    done = bool(result.get("already_done"))
    return BatchJob(*about, result.get("seconds"), done, view.report, row.error, view.notes, after)
