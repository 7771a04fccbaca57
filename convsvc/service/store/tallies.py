"""Sums that only grow, kept in the job store: what Prometheus calls counters and histograms.

A sum over the jobs' own rows would fall when jobs are purged, and one in memory when a process ends. Amounts are added in the
transaction of what they count, so that nothing is counted that did not happen, and nothing twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from convsvc.service.store.models import JobRow, TallyRow

Name = Literal[
    "jobs_ended",  # by state
    "job_failures",  # by the error's class
    "queue_wait",  # seconds, a histogram
    "job_duration",  # seconds, a histogram
    "task_attempts",  # by how they ended
    "bytes_read",
    "bytes_written",
    "leases_expired",
    "webhook_attempts",  # by how they ended
]
# Upper bounds of the histograms' buckets, in seconds: a job lasts from a second to days.
BOUNDS_S = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0)
BEYOND, SUM = "+Inf", "sum"


@dataclass(frozen=True, slots=True)
class Tally:
    """So much of something happened; `label` says of which kind."""

    name: Name
    amount: float = 1
    label: str = ""


def observed(name: Name, seconds: float) -> list[Tally]:
    """One duration as it is added to a histogram: to its bucket (the smallest bound it does not exceed), and to the sum.

    >>> [(tally.label, tally.amount) for tally in observed("queue_wait", 7.5)]
    [('10.0', 1), ('sum', 7.5)]
    """
    place = bisect_left(BOUNDS_S, seconds)
    bucket = str(BOUNDS_S[place]) if place < len(BOUNDS_S) else BEYOND
    return [Tally(name, 1, bucket), Tally(name, max(0.0, seconds), SUM)]


def job_tallies(row: JobRow, event: str, now: datetime, *, ended: bool, first: bool) -> list[Tally]:
    """What an event that has just happened to the job adds; `first` says that its run had not been claimed before. Pure."""
    found: list[Tally] = []
    if event == "claim" and first and row.queued_at:
        found += observed("queue_wait", (now - row.queued_at).total_seconds())
    if event == "reclaim":
        found.append(Tally("leases_expired"))
    if ended:
        found.append(Tally("jobs_ended", 1, row.state))
        if row.started_at:
            found += observed("job_duration", (now - row.started_at).total_seconds())
        if row.state == "failed":
            found.append(Tally("job_failures", 1, str((row.error or {}).get("type", "ConvsvcError"))[:64]))
    return found


def add_tallies(session: Session, tenant: str, tallies: Iterable[Tally]) -> None:
    """Add the amounts. At most once a transaction, and last in it: rows are locked in one order, so that nobody waits in a circle."""
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    for tally in tallies:
        sums[tally.name, tally.label] += tally.amount
    if not sums:
        return
    rows = [{"name": name, "tenant": tenant, "label": label, "value": value} for (name, label), value in sorted(sums.items())]
    dialect: Any = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    query = dialect.insert(TallyRow).values(rows)
    key = [TallyRow.name, TallyRow.tenant, TallyRow.label]
    session.execute(query.on_conflict_do_update(index_elements=key, set_={"value": TallyRow.value + query.excluded.value}))


def read_tallies(session: Session) -> list[tuple[str, str, str, float]]:
    """Every sum: name, tenant, label, value."""
    query = select(TallyRow.name, TallyRow.tenant, TallyRow.label, TallyRow.value).order_by(TallyRow.name, TallyRow.tenant)
    return [(name, tenant, label, value) for name, tenant, label, value in session.execute(query)]
