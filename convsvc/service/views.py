"""What the service shows of a job: one definition for the store, the HTTP answers and the client.

Times are in UTC, sizes in bytes, durations in seconds. Standard library only, so that the client stays light.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the current run is. Totals are 0 until the job is planned. `phase` is the driver's name for what it does now.

    `bytes_done` are of tasks that have ended, `bytes_running` what those that run have written so far. `phase_...` are of this phase
    alone: of verifying, say, the bytes read back. `rate_bytes_s` is of late, None where nothing was measured yet; `eta_s` is how long
    the phase will still take, counted from `told_at`, and `eta_basis` what that was reckoned from.
    """

    phase: str = ""
    tasks_done: int = 0
    tasks_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_running: int = 0
    phase_tasks_done: int = 0
    phase_tasks_total: int = 0
    phase_bytes_done: int = 0
    phase_bytes_total: int = 0
    phase_began_at: datetime | None = None
    told_at: datetime | None = None
    rate_bytes_s: float | None = None
    eta_s: float | None = None
    eta_basis: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a job does not go on, since when, and its `position` in its tenant's queue (1 is next) where it is in that.

    `reason`: after of a blocked job; queue, no-executor, engine-away, quota or version of a queued one; of one that an executor has:
    engine-starts, target-busy (who had it before still holds the target), executor-silent or executor-comes.
    """

    reason: str
    text: str
    since: datetime | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as it stands.

    `spec` is the job as it was submitted; `run` counts from 1 and grows with each retry. `plan` is `Plan.summary()`, `result`
    what the run reported at its end, `error` a ConvsvcError in JSON form (`errors.error_from_dict`). `tenant` owns it, `submitted_by`
    names the token it came with, and its wait counts from `queued_at`. `notes` are {"kind", "text"}: the plan's as soon as it is made,
    those of the run at its end too; `report` is where the conversion's report lies then. `waiting` says why it does not go on: only
    of a job that was asked for alone. `mode`: convert, verify or compare; a comparison's `result` is what `convsvc.compare` answers, and
    one that found differences has failed with that in its `error`'s details. `batch` is what it was submitted
    in. `staged`: an unfinished target lies beside the target's place, which a retry goes on with.
    """

    id: str
    name: str | None
    model_type: str | None
    state: str
    run: int
    source: str
    target: str
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: Progress = Progress()
    executor: str | None = None
    plan: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    tenant: str = "default"
    priority: int = 0
    submitted_by: str | None = None
    queued_at: datetime | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)
    report: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    waiting: Waiting | None = None
    staged: bool = False
    mode: str = "convert"
    batch: str | None = None


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task of the current run: pending, running, done or failed. `attempt` counts from 1; 0 while it was never started."""

    number: int
    name: str
    state: str
    attempt: int
    bytes: int
    seconds: float | None
    worker: str | None
    error: dict[str, Any] | None
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt at a task of one of the job's runs; `outcome` is done, failed or lost (nobody reported it), None while it goes on."""

    run: int
    task: int
    attempt: int
    worker: str | None
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    error: dict[str, Any] | None


# Of a live stream: how it is now, as `JobView.progress` and `JobView.waiting`.
TOLD = frozenset({"progress", "waits"})


@dataclass(frozen=True, slots=True)
class EventView:
    """Something that happened to a job. `kind` is submitted, state, planned, phase, task or waiting; `seq` grows by one.

    A live stream also has kinds that are only told, not kept: see TOLD. They bear the `seq` of the last event before them.
    """

    seq: int
    at: datetime
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line about a job; `task` is the task's number where it is about one, `attempt` the task's where a worker of it says so."""

    seq: int
    at: datetime
    level: str
    message: str
    task: int | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first. `next_cursor` asks for the following page; None on the last one."""

    jobs: list[JobView]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class AuditView:
    """Who (`actor`, a token's name) did what (`action`), when, from which address, and what came of it: ok, or the error's slug."""

    id: int
    at: datetime
    actor: str
    tenant: str
    action: str
    job_id: str | None
    address: str | None
    outcome: str
    detail: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Audit rows, newest first. `next_cursor` asks for the following page; None on the last one."""

    entries: list[AuditView]
    next_cursor: int | None = None
