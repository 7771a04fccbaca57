"""What the service shows of a watch. Times are in UTC. Standard library only, so that the client stays light."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class WatchView:
    """A watch as it stands. `spec` is as it was asked for; `looked_at` is when its directory was looked at last, `error` why that saw
    nothing (a ConvsvcError in JSON form). `iterations` counts those that were seen, by state; `jobs` those that were taken, by their
    jobs' states ("forgotten" where the job store has no such job any more)."""

    id: str
    name: str | None
    directory: str
    tenant: str
    submitted_by: str | None
    created_at: datetime
    looked_at: datetime | None
    executor: str | None
    error: dict[str, Any] | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    iterations: dict[str, int] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IterationView:
    """An iteration of a watch. `state`: moving, incomplete (`error` says why), refused (the same), taken. `job` is the last one that it
    became, with its state; `removed_at` when its target gave way to newer ones, `kept_for` why it could not."""

    iteration: int
    state: str
    looked_at: datetime
    error: dict[str, Any] | None = None
    job: str | None = None
    job_state: str | None = None
    target: str | None = None
    taken_at: datetime | None = None
    removed_at: datetime | None = None
    kept_for: str | None = None
