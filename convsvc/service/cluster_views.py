"""What the service shows of who works, and of who asks. Apart from `views`, as `convsvc submit` does without. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class NodeView:
    """A machine on which tasks run: `slots` at once. `executors` use it, `jobs` run on it (of those that the caller sees)."""

    id: str
    host: str
    engine: str
    slots: int
    versions: list[str] = field(default_factory=list)
    executors: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ExecutorView:
    """An executor. `state`: idle, busy, away (its engine does not answer: `away` since `away_since`), silent or left.

    `slots` is how many tasks of a job run at once, None while its engine has not been opened: that comes with the first job. `jobs` are
    those it works on that the caller sees, `other_jobs` counts the others, `jobs_at_once` is how many it takes.
    """

    name: str
    state: str
    engine: str
    host: str
    version: str | None
    started_at: datetime
    heartbeat_at: datetime
    left_at: datetime | None = None
    jobs_at_once: int = 1
    slots: int | None = None
    nodes: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    other_jobs: int = 0
    away: str | None = None
    away_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """Who asks, and what he may. `roots` of None is anywhere. `limits` of None are none; `use` is what counts against them now."""

    name: str
    tenant: str
    scopes: list[str]
    roots: list[str] | None
    limits: dict[str, float | None] = field(default_factory=dict)
    use: dict[str, int] = field(default_factory=dict)
