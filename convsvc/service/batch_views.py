"""What the service shows of a batch. Times are in UTC, sizes in bytes. Standard library only, so that the client stays light."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job of a batch, as far as a report of the batch says it. `after` are the ids of those that it comes after."""

    id: str
    name: str | None
    state: str
    source: str
    target: str
    bytes_done: int = 0
    bytes_total: int = 0
    seconds: float | None = None
    already_done: bool = False
    report: str | None = None
    error: dict[str, Any] | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BatchView:
    """Jobs that were submitted as one, with one progress. `state`: succeeded, failed or canceled once all have ended (failed if any
    failed, else canceled if any was), running before. `states` counts its jobs by state. Totals are of the jobs that were planned yet.
    `jobs` is only of a batch that was asked for alone: its report, job by job in the order of the submission."""

    id: str
    name: str | None
    tenant: str
    submitted_by: str | None
    created_at: datetime
    ended_at: datetime | None
    state: str
    states: dict[str, int] = field(default_factory=dict)
    tasks_done: int = 0
    tasks_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    jobs: list[BatchJob] | None = None


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Batches, newest first. `next_cursor` asks for the following page; None on the last one."""

    batches: list[BatchView]
    next_cursor: str | None = None
