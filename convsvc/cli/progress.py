"""How far a job is, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from convsvc.cli.options import in_bytes
from convsvc.engine.listener import Listener

LINE_EVERY_S = 5.0


class Display(Protocol):
    """What shows progress. Counts are tasks of the current phase; a total of 0 means not known."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, done: int, total: int, size_bytes: int) -> None: ...

    def line(self, text: str) -> None: ...

    def close(self) -> None: ...


def make_display() -> Display:
    return Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """A line a phase, and one now and then within it: what a log file needs."""

    def __init__(self) -> None:
        self.name, self.total, self.last = "", 0, 0.0

    def phase(self, name: str, total: int) -> None:
        self.name, self.total, self.last = name, total, time.monotonic()
        self.line(f"{name}, {total} tasks" if total else name)

    def advance(self, done: int, total: int, size_bytes: int) -> None:
        now = time.monotonic()
        if done < total and now - self.last < LINE_EVERY_S:
            return
        self.last = now
        self.line(f"{self.name or 'running'} {done}/{total} tasks, {in_bytes(size_bytes)}")

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Bar:
    """A rich progress bar a phase."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[size]}"),
            TimeElapsedColumn(),
        )
        self.bars = Progress(*columns, console=Console(stderr=True))
        self.current: Any = None
        self.bars.start()

    def phase(self, name: str, total: int) -> None:
        if self.current is not None and not self.bars.tasks[self.current].finished:
            self.bars.update(self.current, total=1, completed=1)
        self.current = self.bars.add_task(name, total=total or None, size="")

    def advance(self, done: int, total: int, size_bytes: int) -> None:
        if self.current is None:
            self.phase("running", total)
        self.bars.update(self.current, completed=done, total=total or None, size=in_bytes(size_bytes))

    def line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        if self.current is not None:
            task = self.bars.tasks[self.current]
            self.bars.update(self.current, total=task.completed or 1, completed=task.completed or 1)
        self.bars.stop()


class ShownRun(Listener):
    """A driver's listener that draws on a display."""

    def __init__(self, display: Display) -> None:
        self.display, self.done, self.total, self.bytes = display, 0, 0, 0

    def phase(self, name: str, total: int) -> None:
        self.done, self.total, self.bytes = 0, total, 0
        self.display.phase(name, total)

    def task_started(self, task: int, name: str, attempt: int) -> None:
        if attempt > 1:
            self.display.line(f"{name}: attempt {attempt}")

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        self.done += 1
        self.bytes += int(result.get("bytes_written") or result.get("bytes_read") or 0)
        self.display.advance(self.done, self.total, self.bytes)

    def task_failed(self, task: int, error: dict[str, Any], will_retry: bool, worker: str) -> None:
        where = f" on {worker}" if worker else ""
        self.display.line(f"task {task}{where}: {error.get('message')}" + ("; trying again" if will_retry else ""))

    def log(self, message: str) -> None:
        self.display.line(message)
