"""Drives a plan to its end on any engine: phases, a bounded window, retries, cancellation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from convsvc.engine.base import Engine
from convsvc.engine.listener import Listener
from convsvc.engine.phase import Limits, Phase, Tally
from convsvc.engine.places import Places
from convsvc.errors import Canceled
from convsvc.execute.forecast import projected_bytes
from convsvc.execute.staging.holders import Holder
from convsvc.execute.staging.report import Ran
from convsvc.execute.staging.workspace import Staging
from convsvc.notes import Note, sort_notes
from convsvc.plan.plan import Plan
from convsvc.plan.records import Task

__all__ = ["Listener", "RunResult", "run_plan"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did. `digests`: CRC-32 in hex of every "file/tensor" written; `phase_seconds`: by phase, in their order.

    `notes` are the plan's and those of its tasks, by kind; `report` is where the conversion's report lies. `already_done`: an earlier
    run's target was found whole, and nothing was done.
    """

    target: str
    bytes_read: int
    bytes_written: int
    tasks_done: int
    tasks_skipped: int
    tasks_retried: int
    phase_seconds: dict[str, float]
    digests: dict[str, str] = field(repr=False)
    notes: tuple[Note, ...] = ()
    report: str = ""
    already_done: bool = False

    @property
    def seconds(self) -> float:
        return sum(self.phase_seconds.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON, with the digests counted but not listed."""
        return {
            "target": self.target,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "tasks": {"done": self.tasks_done, "skipped": self.tasks_skipped, "retried": self.tasks_retried},
            "seconds": round(self.seconds, 3),
            "phase_seconds": {name: round(seconds, 3) for name, seconds in self.phase_seconds.items()},
            "tensors": len(self.digests),
            "notes": [note.as_dict() for note in self.notes],
            "report": self.report,
            **({"already_done": True} if self.already_done else {}),
        }


def run_plan(
    plan: Plan,
    engine: Engine,
    *,
    verify: str = "digest",
    on_exists: str = "error",
    listener: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
    reverse_tasks: Iterable[Task] | None = None,
    max_attempts: int = 5,
    task_timeout_s: float = 3600.0,
    holder: Holder | None = None,
    opening: Callable[[Staging], None] | None = None,
) -> RunResult:
    """Runs every task of the plan, verifies as asked, and puts the target in place.

    `verify`: "none" | "digest" | "roundtrip" | "full" (the last two run `reverse_tasks`, which compare instead of writing). A task is tried
    up to `max_attempts` times if its worker is lost, its deadline passes or its error is retryable. `should_stop` is asked several times a
    second. `holder` is whose run it is, by default this process's. `opening` is handed the staging directory in which the target is
    complete, just before it is published, and raises VerifyError unless it opens as what was planned. After an error the staging directory
    stays, for `on_exists="resume"`; the target is as it was. After Canceled nothing stays. Raises the ConvsvcError that stopped it.
    """
    if verify in ("roundtrip", "full") and reverse_tasks is None:
        raise ValueError(f"verify={verify!r} needs the plan's reverse tasks")
    limits = Limits(max_attempts, task_timeout_s, should_stop or (lambda: False), projected_bytes(plan))
    began = monotonic()
    with Staging.open(plan, on_exists, holder, limits.check_stop) as staging:
        run = _Run(staging, engine, listener or Listener(), limits, {"open": monotonic() - began})
        try:
            return run.to_end(verify, tuple(reverse_tasks or ()), opening)
        except (Canceled, KeyboardInterrupt) as stop:
            published = staging.discard()
            if isinstance(stop, Canceled):
                raise
            raise Canceled("the job was interrupted" + (" just after the target was put in place" if published else "")) from None


class _Run:
    def __init__(self, staging: Staging, engine: Engine, listener: Listener, limits: Limits, phase_seconds: dict[str, float]) -> None:
        self._staging = staging
        self._engine = engine
        self._listener = listener
        self._limits = limits
        self._phase_seconds = phase_seconds
        self._tally = Tally()
        self._verified: dict[str, Any] = {}
        self._notes: list[Note] = []
        self._places = Places()

    def to_end(self, verify: str, reverse_tasks: tuple[Task, ...], opening: Callable[[Staging], None] | None) -> RunResult:
        self._staging.forget("verify", "compare")  # what was verified before a crash is verified again
        self._tasks("write")
        self._step("seal", self._staging.seal)
        if verify != "none":
            self._tasks("verify")
        if verify in ("roundtrip", "full"):
            self._staging.add_reverse(reverse_tasks)
            self._tasks("compare")
        digests, report = self._staging.digests(), self._staging.report_path
        if opening is not None:
            self._step("reopen", partial(self._reopen, opening))
            self._verified["reopened"] = True
        self._step("publish", partial(self._publish, verify))
        return self._result(digests, report)

    def _publish(self, verify: str) -> None:
        tally = self._tally
        counts = {"bytes_read": tally.bytes_read, "bytes_written": tally.bytes_written}
        counts |= {"tasks_done": tally.done, "tasks_skipped": tally.skipped, "tasks_retried": tally.retried}
        ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._notes += self._staging.publish(Ran(verify, ended_at, self._phase_seconds, counts, self._verified, self._all_notes()))

    def _all_notes(self) -> tuple[Note, ...]:
        return sort_notes((*self._staging.plan.notes, *self._tally.notes, *self._notes))

    def _reopen(self, opening: Callable[[Staging], None]) -> None:
        self._staging.complete()
        opening(self._staging)

    def _tasks(self, mode: str) -> None:
        began, read = monotonic(), self._tally.bytes_read
        Phase(mode, self._staging, self._engine, self._listener, self._limits, self._places).run(self._tally)
        self._phase_seconds[mode] = monotonic() - began
        if mode != "write":
            self._verified[mode] = {"tasks": len(self._staging.task_names(mode)), "bytes_read": self._tally.bytes_read - read}

    def _step(self, name: str, act: Callable[[], None]) -> None:
        self._limits.check_stop()
        self._listener.phase(name, 0)
        began = monotonic()
        act()
        self._phase_seconds[name] = monotonic() - began

    def _result(self, digests: dict[str, str], report: Path) -> RunResult:
        tally = self._tally
        return RunResult(
            target=str(self._staging.target),
            bytes_read=tally.bytes_read,
            bytes_written=tally.bytes_written,
            tasks_done=tally.done,
            tasks_skipped=tally.skipped,
            tasks_retried=tally.retried,
            phase_seconds=self._phase_seconds,
            digests=digests,
            notes=self._all_notes(),
            report=str(report),
        )
