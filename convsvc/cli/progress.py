"""How far a job is, on stderr: a bar on a terminal, plain lines elsewhere. What is shown was done: nothing is rounded up to full."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from convsvc.cli.human import duration
from convsvc.cli.terminal import shown
from convsvc.engine.listener import Listener
from convsvc.units import counted, in_bytes

if TYPE_CHECKING:
    from convsvc.plan.plan import Plan

LINE_EVERY_S = 5.0


@dataclass(frozen=True)
class Step:
    """How far a phase is. A total of 0 is not known; `rate` is in bytes a second, `eta_s` is for this phase."""

    done: int
    total: int
    size_bytes: int = 0
    total_bytes: int = 0
    rate: float | None = None
    eta_s: float | None = None

    @property
    def words(self) -> str:
        """The bytes, how fast, how long still.

        >>> Step(1, 4, 1 << 30, 4 << 30, 512 << 20, 6).words, Step(1, 4, 100).words
        ('1.0 GiB of 4.0 GiB, 512.0 MiB/s, 6s left', '100 B')
        """
        of = f" of {in_bytes(self.total_bytes)}" if self.total_bytes else ""
        rate = f", {in_bytes(int(self.rate))}/s" if self.rate else ""
        left = f", {duration(self.eta_s)} left" if self.eta_s is not None and self.done < self.total else ""
        return f"{in_bytes(self.size_bytes)}{of}{rate}{left}"


class Display(Protocol):
    """What shows progress. Counts are tasks of the current phase; a total of 0 means not known."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, step: Step) -> None: ...

    def line(self, text: str) -> None: ...

    def close(self, *, well: bool = False) -> None:
        """The end; `well` says that the last phase came to its end too."""


def make_display() -> Display:
    return Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """A line a phase, and one now and then within it: what a log file needs."""

    def __init__(self) -> None:
        self.name, self.total, self.last = "", 0, 0.0

    def phase(self, name: str, total: int) -> None:
        self.name, self.total, self.last = name, total, time.monotonic()
        self.line(f"{name}, {counted(total, 'task')}" if total else name)

    def advance(self, step: Step) -> None:
        now = time.monotonic()
        if (step.done < step.total or not step.total) and now - self.last < LINE_EVERY_S:
            return
        self.last = now
        self.line(f"{self.name or 'running'} {step.done}/{counted(step.total, 'task')}, {step.words}")

    def line(self, text: str) -> None:
        print(shown(text), file=sys.stderr, flush=True)

    def close(self, *, well: bool = False) -> None:
        pass


class Bar:
    """A rich progress bar a phase. One whose phase was left before its end stays as it was then."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[tasks]}", markup=False),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
        )
        self.bars = Progress(*columns, console=Console(stderr=True))
        self.current: Any = None
        self.bars.start()

    def phase(self, name: str, total: int) -> None:
        self._leave(well=True)
        tasks = f"0/{total}" if total else ""
        self.current = self.bars.add_task(shown(name), total=total or None, tasks=tasks, words="")

    def advance(self, step: Step) -> None:
        if self.current is None:
            self.phase("running", step.total)
        tasks = f"{step.done}/{step.total}" if step.total else str(step.done)
        # Bytes move while a task runs; tasks only when one ends. The bar is full when all tasks have ended.
        share = min(step.size_bytes / step.total_bytes, 1.0) * step.total if step.total_bytes and step.total else float(step.done)
        completed = float(step.total) if step.done >= step.total else min(max(share, step.done), step.total - 0.01)
        self.bars.update(self.current, completed=completed, total=step.total or None, tasks=tasks, words=step.words)

    def line(self, text: str) -> None:
        self.bars.console.print(shown(text), markup=False, highlight=False)

    def close(self, *, well: bool = False) -> None:
        self._leave(well=well)
        self.bars.stop()

    def _leave(self, *, well: bool) -> None:
        """The phase is over. One that has no tasks is done when another one begins, or the run has ended well."""
        if self.current is None:
            return
        if well and self.bars.tasks[self.current].total is None:
            self.bars.update(self.current, total=1, completed=1)
        self.bars.stop_task(self.current)


class ShownRun(Listener):
    """A driver's listener that draws on a display."""

    def __init__(self, display: Display) -> None:
        from convsvc.service.store.pace import Meter

        self.display, self._meter_of = display, Meter
        self._sizes: dict[int, int] = {}
        self._moved: dict[int, int] = {}
        self._before: int = 0
        self._meter = Meter("", 0)

    def planned(self, plan: Plan) -> None:
        self._sizes = {task.id: task.bytes_out for task in plan.tasks}

    def tasks_skipped(self, tasks: Any) -> None:
        self._before = sum(self._sizes.get(task, 0) for task in tasks)

    def phase(self, name: str, total: int) -> None:
        known = sum(self._sizes.values()) if name in ("write", "verify") else 0
        self._meter, self._before = self._meter_of(name, total, known, self._before), 0
        self._moved.clear()
        self.display.phase(name, total)

    def task_started(self, task: int, name: str, attempt: int) -> None:
        if attempt > 1:
            self.display.line(f"{name}: attempt {attempt}")

    def tasks_moved(self, moved: dict[int, int]) -> None:
        self._moved = {task: min(size, self._sizes.get(task, size)) for task, size in moved.items()}
        self._meter.moved(sum(self._moved.values()))
        self._show()

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        self._moved.pop(task, None)
        told = int(result.get("bytes_written") or result.get("bytes_read") or 0)
        size = self._sizes.get(task, told) if self._meter.bytes_total else told
        self._meter.done(size, sum(self._moved.values()))
        self._show()

    def task_failed(self, task: int, error: dict[str, Any], will_retry: bool, worker: str) -> None:
        where = f" on {worker}" if worker else ""
        self.display.line(f"task {task}{where}: {error.get('message')}" + ("; trying again" if will_retry else ""))

    def log(self, message: str) -> None:
        self.display.line(message)

    def _show(self) -> None:
        from convsvc.service.store.pace import eta_of

        pace = self._meter.as_dict()
        size = pace["bytes"] + pace["running"]
        self.display.advance(Step(pace["tasks"], pace["tasks_total"], size, pace["bytes_total"], pace["rate"], eta_of(pace, "")[0]))
