"""The job store's tables.

`jobs.active_target` is unique and NULL for jobs that have ended: that is what keeps two jobs from one target.
`jobs.fence` grows with every claim; whatever an executor writes is refused unless it still has the newest.
A tenant owns jobs and tokens; a job whose tenant is "default" was submitted where no tenants were made.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from convsvc.service.store.texts import Document, Label, Words
from convsvc.spec import SPEC_VERSION


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC, also where the database (SQLite) keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


Json = dict[str, Any]
Names = list[str]

DEFAULT_TENANT = "default"

# Written out, not bound as parameters: only so does a planner see that an index on a part of a table is enough.
QUEUED = text("state = 'queued'")
OPEN = text("ended_at IS NULL")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), Json: Document(none_as_null=True), Names: Document(), float: Float()}


class JobRow(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state", "state", "id"),
        Index("ix_jobs_state_tenant", "state", "tenant"),
        Index("ix_jobs_tenant", "tenant", "id"),
        # The queue, as it is claimed from: only what is in it, so that a hundred thousand jobs that have ended cost nothing.
        Index("ix_jobs_queue", "tenant", "priority", "queued_at", "id", sqlite_where=QUEUED, postgresql_where=QUEUED),
        Index("ix_jobs_started", "started_at"),
        Index("ix_jobs_ended", "ended_at"),
        Index("ix_jobs_batch_id", "batch_id"),
        # Named for its second column, which is what is said to be used already.
        UniqueConstraint("tenant", "idempotency_key", name="uq_jobs_idempotency_key"),
    )

    id: Mapped[str] = mapped_column(String(26), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), default=DEFAULT_TENANT, server_default=DEFAULT_TENANT)
    submitted_by: Mapped[str | None] = mapped_column(Label(200))  # the token's name
    priority: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # higher ones are claimed first
    name: Mapped[str | None] = mapped_column(Label(200))
    labels: Mapped[Json | None]  # the job's, to find it by
    batch_id: Mapped[str | None] = mapped_column(String(26))  # the batch that it was submitted in
    spec: Mapped[Json]
    spec_version: Mapped[int] = mapped_column(Integer, default=SPEC_VERSION, server_default="1")  # who can read it: executors no older
    model_type: Mapped[str | None] = mapped_column(Label(200))
    source_path: Mapped[str] = mapped_column(Words)
    target_path: Mapped[str] = mapped_column(Words)
    active_target: Mapped[str | None] = mapped_column(Words, unique=True)
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_hash: Mapped[str] = mapped_column(String(64))

    state: Mapped[str] = mapped_column(String(16))
    run: Mapped[int] = mapped_column(Integer, default=1)
    claims: Mapped[int] = mapped_column(Integer, default=0)  # of this run: a job that kills its executor is not taken up for ever
    resumable: Mapped[bool] = mapped_column(default=False)  # a task was started, so a staging directory of ours may exist
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime | None]  # when it came into the queue last: its wait counts from here
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    phase: Mapped[str] = mapped_column(Label(32), default="")
    tasks_total: Mapped[int] = mapped_column(Integer, default=0)
    tasks_done: Mapped[int] = mapped_column(Integer, default=0)
    bytes_total: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_done: Mapped[int] = mapped_column(BigInteger, default=0)
    pace: Mapped[Json | None]  # of the phase that runs: see `pace.py`
    waits: Mapped[Json | None]  # why an executor that holds the job does not go on: {"reason", "text", "since"}
    plan: Mapped[Json | None]
    result: Mapped[Json | None]
    error: Mapped[Json | None]

    executor: Mapped[str | None] = mapped_column(Label(200))
    fence: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[datetime | None]
    last_event: Mapped[int] = mapped_column(Integer, default=0)
    last_log: Mapped[int] = mapped_column(Integer, default=0)


class TaskRow(Base):
    __tablename__ = "tasks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Words)
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    seconds: Mapped[float | None]
    worker: Mapped[str | None] = mapped_column(Label(200))
    error: Mapped[Json | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class AttemptRow(Base):
    """One attempt at a task of a run: who worked on it, under which fence, until when it was believed alive, how it ended."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_open", "job_id", sqlite_where=OPEN, postgresql_where=OPEN),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    run: Mapped[int] = mapped_column(Integer, primary_key=True)
    task: Mapped[int] = mapped_column(Integer, primary_key=True)
    fence: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    worker: Mapped[str | None] = mapped_column(Label(200))
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    lease_until: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(Label(16))  # done | failed | lost
    error: Mapped[Json | None]


class EventRow(Base):
    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[Json]


class LogRow(Base):
    __tablename__ = "logs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime]
    level: Mapped[str] = mapped_column(Label(10))
    task: Mapped[int | None] = mapped_column(Integer)
    attempt: Mapped[int | None] = mapped_column(Integer)  # of the task, where one of its workers said it
    message: Mapped[str] = mapped_column(Words)


class ExecutorRow(Base):
    """An executor process and the last time it was heard of."""

    __tablename__ = "executors"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    engine: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    left_at: Mapped[datetime | None]  # it ended in good order
    about: Mapped[Json | None]  # what it says of itself and its engine: `presence.py`; None of an older version's


class TenantRow(Base):
    """Users who share roots, quotas and a share of the cluster. A limit of None is none."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    roots: Mapped[Names]  # directories under which sources and targets must lie, symlinks resolved
    weight: Mapped[float] = mapped_column(default=1.0, server_default="1.0")  # of its share, against other tenants'
    most_running_jobs: Mapped[int | None] = mapped_column(Integer)
    most_queued_jobs: Mapped[int | None] = mapped_column(Integer)
    most_active_bytes: Mapped[int | None] = mapped_column(BigInteger)  # to be written by its jobs that have not ended
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime]


class TokenRow(Base):
    """A bearer token. Only its SHA-256 is kept: it is 256 random bits, so that nothing slower is needed."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(26), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name", ondelete="CASCADE"))
    scopes: Mapped[Names]
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditRow(Base):
    """Who did what, when, and what came of it. Kept when the job is purged."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_at", "at"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(Label(200))
    tenant: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(32))
    job_id: Mapped[str | None] = mapped_column(String(26))
    address: Mapped[str | None] = mapped_column(Label(64))
    outcome: Mapped[str] = mapped_column(String(64))
    detail: Mapped[Json | None]


class DeliveryRow(Base):
    """A webhook to be called since its job has ended."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("ix_deliveries_state", "state", "next_at"), Index("ix_deliveries_job_id", "job_id"))

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    run: Mapped[int] = mapped_column(Integer)
    url: Mapped[str] = mapped_column(Words)
    body: Mapped[Json]
    state: Mapped[str] = mapped_column(String(16))  # waiting | delivered | failed
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Words)
    created_at: Mapped[datetime]


class TallyRow(Base):
    """A sum that only grows: what has happened since the tables were made, also to jobs that were purged. See `tallies.py`."""

    __tablename__ = "tallies"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    label: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[float] = mapped_column(default=0.0)


class ChoreRow(Base):
    """Work that one of the executors does from time to time for all of them, and when it is due again."""

    __tablename__ = "chores"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    due_at: Mapped[datetime]


class WatchRow(Base):
    """A directory of a training run whose iterations are converted as they appear. One executor at a time looks, under a lease."""

    __tablename__ = "watches"
    __table_args__ = (
        Index("ix_watches_due_at", "due_at"),
        # Named for its second column: the same watch sent again is the one that is there.
        UniqueConstraint("tenant", "request_hash", name="uq_watches_request_hash"),
    )

    id: Mapped[str] = mapped_column(String(26), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    submitted_by: Mapped[str | None] = mapped_column(Label(200))  # the token's name
    spec: Mapped[Json]  # `watching/rules.py`
    spec_version: Mapped[int] = mapped_column(Integer)  # of the job in it: who can read it
    request_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]  # when somebody is to look again
    looked_at: Mapped[datetime | None]
    error: Mapped[Json | None]  # why the last look saw nothing
    executor: Mapped[str | None] = mapped_column(Label(200))
    fence: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[datetime | None]


class SightingRow(Base):
    """An iteration as it was seen last: whether it is at rest is seen by comparing two looks."""

    __tablename__ = "sightings"

    watch_id: Mapped[str] = mapped_column(ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True)
    iteration: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))  # `watching/sighting.py`
    signature: Mapped[str] = mapped_column(String(64))  # of its files' names, sizes and times
    since: Mapped[datetime]  # when the signature was seen first
    looked_at: Mapped[datetime]
    error: Mapped[Json | None]


class TakenRow(Base):
    """An iteration of one content that was given to a job: the key is what keeps it from being converted twice."""

    __tablename__ = "taken_iterations"
    __table_args__ = (Index("ix_taken_iterations_job_id", "job_id"),)

    watch_id: Mapped[str] = mapped_column(ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True)
    iteration: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    content: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(26))  # no key of another table: it stays when the job is purged
    target_path: Mapped[str] = mapped_column(Words)
    plan: Mapped[str] = mapped_column(String(64))  # the plan's fingerprint: what is removed bears it
    taken_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]  # its target had to give way to newer ones
    kept_for: Mapped[str | None] = mapped_column(Words)  # why it could not be removed


class DependencyRow(Base):
    """A job that begins once another one has succeeded. `after_id` is no key of another table: it stays when that job is purged."""

    __tablename__ = "dependencies"
    __table_args__ = (Index("ix_dependencies_after_id", "after_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    after_id: Mapped[str] = mapped_column(String(26), primary_key=True)


class BatchRow(Base):
    """Jobs that were submitted as one: all of them, or none."""

    __tablename__ = "batches"
    __table_args__ = (
        Index("ix_batches_tenant", "tenant", "id"),
        UniqueConstraint("tenant", "idempotency_key", name="uq_batches_idempotency_key"),
    )

    id: Mapped[str] = mapped_column(String(26), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    submitted_by: Mapped[str | None] = mapped_column(Label(200))  # the token's name
    name: Mapped[str | None] = mapped_column(Label(200))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
