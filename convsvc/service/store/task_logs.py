"""What the workers of a task said, and what the task moved, on their way into the job store: with the report of how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sqlalchemy.orm import Session

from convsvc.service.store.changes import add_log
from convsvc.service.store.models import JobRow
from convsvc.service.store.tallies import Tally

# A job of ten thousand tasks, each with a few lines, still fits; a job whose every task complains does not fill the disk.
MOST_LINES = 50_000
LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Report:
    """How an attempt at a task went: what it said ({"at", "level", "message"} each) and what is counted of it."""

    attempt: int | None = None
    lines: tuple[dict[str, Any], ...] = ()
    tallies: tuple[Tally, ...] = ()


NOTHING = Report()


def ended_attempt(outcome: str, attempt: int | None, lines: Iterable[dict[str, Any]], result: dict[str, Any]) -> Report:
    """The report of an attempt that ended as `outcome`: done, retried (it is tried again) or failed."""
    moved = [Tally("bytes_read", result.get("bytes_read") or 0), Tally("bytes_written", result.get("bytes_written") or 0)]
    return Report(attempt, tuple(lines), (Tally("task_attempts", 1, outcome), *moved))


def levels_from(least: str) -> tuple[str, ...]:
    """A level and those above it.

    >>> levels_from("warning")
    ('warning', 'error', 'critical')
    """
    return LEVELS[LEVELS.index(least) :]


def keep_lines(session: Session, row: JobRow, task: int, report: Report) -> None:
    """Write what was said to the job's log, as far as there is room."""
    kept = report.lines[: max(0, MOST_LINES - row.last_log)]
    for line in kept:
        at = datetime.fromtimestamp(line["at"], timezone.utc)
        level = line["level"] if line["level"] in LEVELS else "info"
        add_log(session, row, line["message"], at=at, level=level, task=task, attempt=report.attempt)
    if kept and row.last_log >= MOST_LINES:
        add_log(session, row, f"the log has {MOST_LINES} lines: what workers say from here on is not kept", level="warning")
