"""How much an executor does at once, and how long it lets a task and a job take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from convsvc.errors import DeadlinePassed


@dataclass(frozen=True, slots=True)
class Bounds:
    """`concurrency` is jobs at once. A task that takes longer than `task_timeout_s` is tried again; a job's run that takes longer than
    `deadline_s` fails (None: it may take as long as it takes). With `autoscaling` more tasks are handed to Ray than it has CPUs.
    """

    concurrency: int = 1
    task_timeout_s: float = 3600.0
    deadline_s: float | None = None
    autoscaling: bool = False

    def words(self) -> list[str]:
        """As the executor's command line has them; what is usual is left out."""
        found = [] if self.concurrency == 1 else ["--concurrency", str(self.concurrency)]
        found += [] if self.task_timeout_s == 3600.0 else ["--task-timeout-s", f"{self.task_timeout_s:g}"]
        found += [] if self.deadline_s is None else ["--deadline-s", f"{self.deadline_s:g}"]
        return found + (["--autoscaling"] if self.autoscaling else [])

    def until_deadline(self, should_stop: Callable[[], bool], *, goes_on: bool = True) -> Callable[[], bool]:
        """`should_stop`, which raises DeadlinePassed too, `deadline_s` from now on. `goes_on`: a retry keeps what was done."""
        if self.deadline_s is None:
            return should_stop
        until = monotonic() + self.deadline_s
        again = "retry it: it goes on where it stopped" if goes_on else "retry it where the executor is less busy: it begins anew"

        def stop() -> bool:
            if should_stop():
                return True
            if monotonic() > until:
                raise DeadlinePassed(
                    f"the job was not done after {self.deadline_s:g} s, the executor's deadline for a job",
                    do=f"{again}; or ask for a longer --deadline-s",
                )
            return False

        return stop
