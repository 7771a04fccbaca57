"""Who wants to know how a run goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convsvc.plan.plan import Plan


class Listener:
    """Told what happens in a run, in the driver's thread; does nothing itself. Override what you want to know.

    An exception raised here ends the run.
    """

    def planned(self, plan: Plan) -> None:
        """The plan is made; whoever drives it tells, not the driver."""

    def phase(self, name: str, total: int) -> None:
        """A phase begins: "write", "seal", "verify", "compare", "reopen" or "publish", with `total` tasks to do (0: it has none)."""

    def tasks_skipped(self, tasks: Sequence[int]) -> None:
        """Told just before a phase of which an earlier run has done these tasks."""

    def task_started(self, task: int, name: str, attempt: int) -> None:
        """A task was handed to the engine; `attempt` counts from 1."""

    def tasks_moved(self, moved: dict[int, int]) -> None:
        """How many bytes tasks that run now have moved so far, by task: told every few seconds of those that have said so."""

    def task_said(self, task: int, lines: Sequence[dict[str, Any]]) -> None:
        """What a task's worker logged, told just before how it ended: {"at", "level", "message"}, `at` in seconds since 1970."""

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        """A task ended well: {"task", "mode", "bytes_read", "bytes_written", "seconds", "worker"}."""

    def task_failed(self, task: int, error: dict[str, Any], will_retry: bool, worker: str) -> None:
        """A task failed; `error` is a ConvsvcError's `as_dict`, `worker` says where, or is empty where nobody knows."""

    def turn(self) -> None:
        """Told several times a second while tasks run, whether anything happened or not."""

    def log(self, message: str) -> None:
        """Something worth a line in the job's log."""
