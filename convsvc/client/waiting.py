"""How often to look whether a job has ended."""

from __future__ import annotations

import time

from convsvc.errors import ServiceError
from convsvc.service.views import JobView

FIRST_S, GROWTH = 0.2, 1.5


class Waiting:
    """Looks become rarer, up to every `longest_s`: short jobs are seen ended at once, long ones do not eat up a tenant's requests."""

    def __init__(self, timeout_s: float | None, longest_s: float) -> None:
        self._timeout_s, self._longest_s = timeout_s, longest_s
        self._started, self._next_s = time.monotonic(), FIRST_S
        self.began = False

    def pause_s(self, job: JobView) -> float:
        """Seconds until the next look. Raises ServiceError, with `job` as it stands, where the time is up."""
        left_s = None if self._timeout_s is None else self._started + self._timeout_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise ServiceError(
                f"job {job.id} has not ended after {self._timeout_s:g} s: it is {job.state}",
                do="wait longer; the job goes on",
                details={"job": job.id, "state": job.state},
            )
        self.began = True
        pause_s, self._next_s = min(self._next_s, self._longest_s), self._next_s * GROWTH
        return pause_s if left_s is None else min(pause_s, left_s)
