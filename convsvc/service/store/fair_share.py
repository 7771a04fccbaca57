"""Whose turn it is when an executor is free. Pure.

The tenant that has the fewest jobs running for its weight comes first: so each has its share of the executors, and one that has nothing
running is never kept waiting by one that has. Where executors are fewer than tenants they are equal in that, so what they were given
lately decides, also by weight; then who has waited longest. Within a tenant a higher priority comes first, then the older job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

RECENT = 128  # claims that are remembered: with capacity for one job, shares are exact to about one part in so many


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tenant with jobs in the queue: how many of its jobs run, how many of the last `RECENT` claims were its own.

    `since` is when the job it would be given came into the queue. `most_running` of None is no bound.
    """

    tenant: str
    since: datetime
    running: int = 0
    recent: int = 0
    weight: float = 1.0
    most_running: int | None = None

    @property
    def has_room(self) -> bool:
        return self.most_running is None or self.running < self.most_running


def in_turn(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The tenants that may have another job run, the one whose turn it is first.

    >>> noon = datetime(2024, 1, 1, 12)
    >>> idle, busy = Candidate("idle", noon), Candidate("busy", noon, running=2, weight=4)
    >>> full = Candidate("full", noon, running=1, most_running=1)
    >>> [candidate.tenant for candidate in in_turn([busy, full, idle])]
    ['idle', 'busy']
    """
    return sorted((one for one in candidates if one.has_room), key=_burden)


def _burden(one: Candidate) -> tuple[float, float, datetime, str]:
    return one.running / one.weight, one.recent / one.weight, one.since, one.tenant
