"""How often to look whether a job has ended."""

from __future__ import annotations

import math
import time

from convsvc.client.requests import PATIENCE_S
from convsvc.errors import ServiceError
from convsvc.service.batch_views import BatchView
from convsvc.service.views import JobView

FIRST_S, GROWTH = 0.2, 1.5


def id_of(job: str | JobView) -> str:
    """The id of a job that is given by it, or as a view."""
    return job if isinstance(job, str) else job.id


class Waiting:
    """Looks become rarer, up to every `longest_s`: short jobs are seen ended at once, long ones do not eat up a tenant's requests."""

    def __init__(self, timeout_s: float | None, longest_s: float) -> None:
        self._timeout_s, self._longest_s = timeout_s, longest_s
        self._started, self._next_s = time.monotonic(), FIRST_S
        self._began = False

    @property
    def patience_s(self) -> float | None:
        """How long a service that is away is waited for; the first look fails like any request."""
        return min(PATIENCE_S, self._left_s()) if self._began else None

    def pause_s(self, job: JobView | BatchView) -> float:
        """Seconds until the next look. Raises ServiceError, with the job (or batch) as it stands, where the time is up."""
        what = "job" if isinstance(job, JobView) else "batch"
        left_s = self._left_s()
        if left_s <= 0:
            raise ServiceError(
                f"{what} {job.id} has not ended after {self._timeout_s:g} s: it is {job.state}",
                do=f"wait longer; the {what} goes on",
                details={what: job.id, "state": job.state},
            )
        self._began = True
        pause_s, self._next_s = min(self._next_s, self._longest_s), self._next_s * GROWTH
        return min(pause_s, left_s)

    def _left_s(self) -> float:
        return math.inf if self._timeout_s is None else self._started + self._timeout_s - time.monotonic()
