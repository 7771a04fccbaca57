"""The executor's side of the job store: take a job, keep it, report on it.

Every report carries the claim's fence number and is refused with LeaseLost once another executor has the job, so a process
that was thought dead cannot spoil what its successor does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from convsvc.errors import JobError, ServiceError
from convsvc.service.errors import LeaseLost
from convsvc.service.store.attempts import extend_attempts
from convsvc.service.store.changes import PUBLISH, Lease, add_event, add_log, advance, locked_job
from convsvc.service.store.clock import now_of
from convsvc.service.store.database import Database
from convsvc.service.store.ledger import WRITE, Checked, Failed, Finished, Ledger, Line, Started, Word, error_text
from convsvc.service.store.models import DEFAULT_TENANT, ExecutorRow, JobRow, TaskRow, TenantRow
from convsvc.service.store.queue import is_any_waiting, next_job
from convsvc.service.store.retrying import retried
from convsvc.service.store.states import JobEvent
from convsvc.service.store.task_logs import NOTHING, Report
from convsvc.spec import Job, parse_job

MAX_CLAIMS = 3
_SUCCESS = {"convert": "the target is {}", "verify": "{} is what the job writes", "compare": "the same model as in {}"}
PLAN = "plan"  # before the driver: the job is looked at


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that an executor holds.

    `resume`: an earlier run has begun to write, go on from its marks. `publishing`: the executor that had the job before died while
    it moved the target into place, so that may have happened. `canceling`: nothing is to be done but to remove what is staged.
    `roots` are the directories that its tenant's jobs must stay in; none are configured if it is empty.
    """

    job_id: str
    fence: int
    run: int
    job: Job
    resume: bool
    publishing: bool = False
    tenant: str = DEFAULT_TENANT
    roots: tuple[str, ...] = ()
    canceling: bool = False


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task as the plan announces it: its number, its name, and the bytes it writes."""

    number: int
    name: str
    bytes: int


class Claims:
    """Takes and keeps jobs for the executor `name`. A lease lasts `lease_s` seconds unless it is renewed."""

    def __init__(self, database: Database, name: str, *, engine: str = "", lease_s: float = 15) -> None:
        self.database, self.name, self.engine, self.lease_s = database, name, engine, lease_s

    @retried
    def heartbeat(self, about: dict[str, Any] | None = None) -> None:
        """Say that this executor lives, and what is to be known of it and its engine (`presence.py`)."""
        with self.database.writing() as session:
            row, now = session.get(ExecutorRow, self.name), now_of(session)
            if row is None:
                row = ExecutorRow(name=self.name, engine=self.engine, started_at=now)
                session.add(row)
            row.heartbeat_at, row.left_at = now, None
            if about is not None:
                row.about = about

    @retried
    def sign_off(self) -> None:
        """Say that this executor ends; forget executors that have been silent for a day."""
        with self.database.writing() as session:
            now = now_of(session)
            session.execute(delete(ExecutorRow).where(ExecutorRow.heartbeat_at < now - timedelta(days=1)))
            session.execute(update(ExecutorRow).where(ExecutorRow.name == self.name).values(left_at=now))

    def claim(self) -> Claim | None:
        """A job whose executor died, or the next in the queue (`queue.py`); None if there is none."""
        claim, look_again = None, self._is_any_waiting()
        while look_again:
            claim, look_again = self._claim_one()
        return claim

    @retried
    def _is_any_waiting(self) -> bool:
        with self.database.reading() as session:
            return is_any_waiting(session)

    @retried
    def _claim_one(self) -> tuple[Claim | None, bool]:
        # Whether to look again: what was found may have been ended, not taken.
        with self.database.writing() as session:
            row = next_job(session)
            if row is None:
                return None, False
            taken = _claim_of(session, row) if self._take(session, row) else None
            return taken, taken is None

    def _take(self, session: Session, row: JobRow) -> bool:
        if row.state != "queued" and row.claims >= MAX_CLAIMS:
            row.error = _poisonous(row)
            advance(session, row, "fail", error=row.error)
            return False
        event: JobEvent = "claim" if row.state == "queued" else "reclaim"
        if event == "reclaim" and row.executor:
            add_log(session, row, f"executor {row.executor} went silent; {self.name} takes the job up", level="warning")
        advance(session, row, event, lease=Lease(self.name, self.lease_s))
        return row.state in {"planning", "canceling"}

    @retried
    def renew(self, claim: Claim) -> bool:
        """Keep the job for another `lease_s`; True says that a cancel was requested. Raises LeaseLost."""
        with self._held(claim) as (session, row):
            row.lease_until = now_of(session) + timedelta(seconds=self.lease_s)
            extend_attempts(session, row)
            return row.cancel_requested

    @retried
    def begin(self, claim: Claim) -> None:
        """Work on the job begins: from here on, an executor that dies may have died of it. Waiting for an engine is no work."""
        with self._held(claim) as (_, row):
            if not row.phase:  # said again, as the answer got lost
                row.claims, row.phase = row.claims + 1, PLAN

    @retried
    def planned(self, claim: Claim, model_type: str | None, summary: dict[str, Any] | None, tasks: Sequence[PlannedTask]) -> None:
        """The plan is made: store its tasks, and go on to running. A comparison has neither plan nor tasks."""
        with self._held(claim) as (session, row):
            session.execute(delete(TaskRow).where(TaskRow.job_id == row.id))
            session.add_all(TaskRow(job_id=row.id, number=t.number, name=t.name, state="pending", bytes=t.bytes) for t in tasks)
            row.model_type, row.plan = model_type, summary
            row.tasks_total, row.tasks_done = len(tasks), 0
            row.bytes_total, row.bytes_done = sum(task.bytes for task in tasks), 0
            add_event(session, row, "planned", {"model_type": model_type, "tasks": row.tasks_total, "bytes": row.bytes_total})
            advance(session, row, "planned")

    @retried
    def waits(self, claim: Claim, reason: str, text: str) -> None:
        """The job does not go on, though this executor holds it: it waits for something. Until its next phase, or another word."""
        with self._held(claim) as (session, row):
            row.waits = {"reason": reason, "text": text, "since": now_of(session).isoformat()}
            add_event(session, row, "waiting", {"reason": reason, "text": text})

    @retried
    def moves(self, claim: Claim, pace: dict[str, Any]) -> None:
        """How far the phase is, tasks that run included, and how fast."""
        with self._held(claim) as (_, row):
            row.pace = pace

    @retried
    def phase(
        self,
        claim: Claim,
        name: str,
        total: int,
        event: JobEvent | None = None,
        pace: dict[str, Any] | None = None,
        *,
        skipped: Sequence[int] = (),
    ) -> None:
        """The driver does something else now, `total` tasks of it; `event` where that is a state of the job.

        `skipped` tasks were done by an earlier run: their marks were found.
        """
        with self._held(claim) as (session, row):
            row.phase, row.waits, row.pace = name[:32], None, pace
            add_event(session, row, "phase", {"phase": name, "total": total})
            if name == WRITE:
                row.resumable = True
                row.tasks_done = row.tasks_total - total  # the others are done already
                row.bytes_done = _skip(session, row, skipped)
            else:
                _finish_unreported(session, row)
            if event:
                advance(session, row, event)

    @retried
    def told(self, claim: Claim, words: Sequence[Word]) -> None:
        """What happened to tasks, in the order in which it happened; all in one transaction."""
        # Nothing is written before the last word: what the words change is written together.
        with self._held(claim) as (session, row), session.no_autoflush:
            Ledger(session, row, words).write(words)

    def checked(self, claim: Claim, phase: str, done: int, total: int, size_bytes: int, report: Report = NOTHING, task: int = 0) -> None:
        self.told(claim, [Checked(phase, done, total, size_bytes, report, task)])

    def task_started(self, claim: Claim, number: int, attempt: int, worker: str | None = None) -> None:
        self.told(claim, [Started(number, attempt, worker)])

    def task_done(
        self,
        claim: Claim,
        number: int,
        *,
        seconds: float | None = None,
        worker: str | None = None,
        report: Report = NOTHING,
        pace: dict[str, Any] | None = None,
    ) -> None:
        self.told(claim, [Finished(number, seconds, worker, report, pace)])

    def task_failed(
        self,
        claim: Claim,
        number: int,
        error: dict[str, Any],
        will_retry: bool,
        report: Report = NOTHING,
        *,
        worker: str | None = None,
    ) -> None:
        self.told(claim, [Failed(number, error, will_retry, report, worker)])

    def log(self, claim: Claim, message: str, *, level: str = "info", task: int | None = None, report: Report = NOTHING) -> None:
        self.told(claim, [Line(message, level, task, report)])

    @retried
    def succeed(self, claim: Claim, result: dict[str, Any]) -> None:
        with self._held(claim) as (session, row):
            row.result, row.phase = result, ""
            how = "already done" if result.get("already_done") else "succeeded"
            add_log(session, row, f"{how}: {_SUCCESS[claim.job.mode].format(row.target_path)}")
            advance(session, row, "succeed")

    @retried
    def fail(self, claim: Claim, error: dict[str, Any]) -> None:
        with self._held(claim) as (session, row):
            row.error, row.phase = error, ""
            add_log(session, row, error_text(error), level="error")
            advance(session, row, "fail", error=error)

    @retried
    def stop(self, claim: Claim) -> None:
        """The run stopped because a cancel was requested."""
        self._end(claim, "stop", "canceled: what was staged is removed, a retry begins anew", resumable=False)

    @retried
    def release(self, claim: Claim) -> None:
        """Put the job back in the queue: this executor ends, the job has not."""
        self._end(claim, "release", f"{self.name} ends: the job goes back to the queue")

    def _end(self, claim: Claim, event: JobEvent, message: str, *, resumable: bool | None = None) -> None:
        with self._held(claim) as (session, row):
            row.resumable = row.resumable if resumable is None else resumable
            add_log(session, row, message, level="warning")
            advance(session, row, event)
            row.phase = ""

    @contextmanager
    def _held(self, claim: Claim) -> Iterator[tuple[Session, JobRow]]:
        with self.database.writing() as session:
            row = locked_job(session, claim.job_id)
            if row.fence != claim.fence:
                raise LeaseLost(f"job {row.id} is no longer held by {self.name}", details={"job": row.id, "fence": claim.fence})
            yield session, row


def _claim_of(session: Session, row: JobRow) -> Claim | None:
    """The claim on a job that was taken; None where this version cannot read the job, which fails for itself: others wait behind it."""
    try:
        job = parse_job(row.spec)
    except JobError as error:
        row.error = _unreadable(error)
        add_log(session, row, error_text(row.error), level="error")
        advance(session, row, "fail", error=row.error)
        return None
    tenant = session.get(TenantRow, row.tenant)
    return Claim(
        row.id,
        row.fence,
        row.run,
        job,
        row.resumable,
        row.phase == PUBLISH,
        row.tenant,
        tuple(tenant.roots) if tenant else (),
        row.state == "canceling",
    )


def _finish_unreported(session: Session, row: JobRow) -> None:
    # Everything is written. Tasks that an earlier run did were not reported to this one.
    if row.tasks_done >= row.tasks_total:
        session.execute(update(TaskRow).where(TaskRow.job_id == row.id, TaskRow.state == "pending").values(state="done"))
        row.bytes_done = row.bytes_total


def _skip(session: Session, row: JobRow, tasks: Sequence[int]) -> int:
    """Mark tasks as done by an earlier run; their bytes."""
    for start in range(0, len(tasks), 1000):
        mine = (TaskRow.job_id == row.id, TaskRow.number.in_(tasks[start : start + 1000]))
        session.execute(update(TaskRow).where(*mine).values(state="done"))
    done = select(func.coalesce(func.sum(TaskRow.bytes), 0)).where(TaskRow.job_id == row.id, TaskRow.state == "done")
    return int(session.execute(done).scalar_one())


def _unreadable(error: JobError) -> dict[str, Any]:
    return ServiceError(
        f"this version of convsvc cannot read the job: {error.message}",
        facts=list(error.facts),
        do="submit it again: it was written by another version, or changed in the database",
        details=error.details,
    ).as_dict()


def _poisonous(row: JobRow) -> dict[str, Any]:
    return ServiceError(
        f"the executor died {row.claims} times while it worked on this job",
        facts=[f"last in state {row.state}, on executor {row.executor}"],
        do="look at the executor's log for the cause (out of memory?), then retry the job",
        details={"claims": row.claims},
    ).as_dict()
