"""How fast a job's phase goes, and when it will have ended. Pure; the executor measures, the views tell.

A pace is JSON in the job's row: {"phase", "began_at", "at", "tasks", "tasks_total", "bytes", "bytes_total", "running", "rate", "over_s"}.
Bytes are those that the phase moves (a resumed one's earlier bytes are in them): "running" those of tasks that have not ended yet,
"rate" bytes a second over the last "over_s" seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from time import monotonic
from typing import Any

WINDOW_S = 60.0
LEAST_S = 2.0  # what is measured over less says nothing
AFTER = {
    "none": ("seal", "reopen", "publish"),
    "digest": ("seal", "verify", "reopen", "publish"),
    "roundtrip": ("seal", "verify", "compare", "reopen", "publish"),
    "full": ("seal", "verify", "compare", "reopen", "publish"),
}


def _now() -> datetime:
    return datetime.now(timezone.utc)


class Meter:
    """Measures a phase. `bytes_before` are done already; a total of 0 is not known."""

    def __init__(
        self,
        phase: str,
        tasks_total: int,
        bytes_total: int = 0,
        bytes_before: int = 0,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self.phase, self.tasks_total, self.bytes_total = phase, tasks_total, bytes_total
        self.tasks, self.bytes, self._running = 0, bytes_before, 0
        self._clock, self._now, self.began_at = clock, now, now()
        self._seen: deque[tuple[float, int]] = deque([(clock(), bytes_before)])

    def done(self, size_bytes: int, running: int = 0) -> None:
        """A task ended and had moved so much; those that run still have moved `running`."""
        self.tasks, self.bytes, self._running = self.tasks + 1, self.bytes + size_bytes, running
        self._note()

    def moved(self, running: int) -> None:
        """The tasks that run have moved so much."""
        self._running = running
        self._note()

    def _note(self) -> None:
        now, moved = self._clock(), self.bytes + self._running
        # Not less than was said before: a task that is tried again begins anew, and that is no negative speed.
        self._seen.append((now, max(moved, self._seen[-1][1])))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()

    def as_dict(self) -> dict[str, Any]:
        (first, had), (last, has) = self._seen[0], self._seen[-1]
        over_s = last - first
        rate = (has - had) / over_s if over_s >= LEAST_S else None
        return {
            "phase": self.phase,
            "began_at": self.began_at.isoformat(),
            "at": self._now().isoformat(),
            "tasks": self.tasks,
            "tasks_total": self.tasks_total,
            "bytes": self.bytes,
            "bytes_total": self.bytes_total,
            "running": self._running,
            "rate": rate,
            "over_s": round(over_s, 1),
        }


def eta_of(pace: dict[str, Any], verify: str) -> tuple[float | None, str | None]:
    """Seconds until the phase will have ended, counted from when the pace was taken, and what that is reckoned from.

    >>> pace = {"phase": "write", "bytes": 600, "running": 100, "bytes_total": 1000, "rate": 50.0, "over_s": 12.0}
    >>> eta_of(pace, "digest")
    (6.0, 'bytes left of write at the mean of the last 12 s; then seal, verify, reopen, publish')
    """
    left_s, basis = _by_bytes(pace) if pace.get("bytes_total") else _by_tasks(pace)
    if left_s is None:
        return None, None
    after = AFTER.get(verify, ())
    if pace["phase"] in after:
        after = after[after.index(pace["phase"]) + 1 :]
    then = f"; then {', '.join(after)}" if after else ""
    return round(left_s, 1), f"{basis}{then}"


def _by_bytes(pace: dict[str, Any]) -> tuple[float | None, str]:
    left = max(0, pace["bytes_total"] - pace["bytes"] - pace["running"])
    basis = f"bytes left of {pace['phase']} at the mean of the last {pace['over_s']:.0f} s"
    return (left / pace["rate"] if pace.get("rate") else None), basis


def _by_tasks(pace: dict[str, Any]) -> tuple[float | None, str]:
    # What this phase reads is not known before: its tasks are about alike.
    took_s = (datetime.fromisoformat(pace["at"]) - datetime.fromisoformat(pace["began_at"])).total_seconds()
    left, done = pace["tasks_total"] - pace["tasks"], pace["tasks"]
    return (left * took_s / done if done else None), f"tasks left of {pace['phase']} at the mean since it began"
