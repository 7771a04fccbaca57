"""What the driver tells of a job's tasks, many words of it in one transaction: a large job ends hundreds of tasks a second.

Whatever the number of words, the job is locked once, the tasks and attempts they are about are read once, and what changes is written
together. Told twice, because an answer got lost, they do no harm: what is done already is not counted again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from convsvc.errors import ServiceError
from convsvc.service.store.attempts import DONE, FAILED, LOST, new_attempt
from convsvc.service.store.changes import add_event, add_log
from convsvc.service.store.clock import now_of
from convsvc.service.store.models import AttemptRow, JobRow, TaskRow
from convsvc.service.store.states import task_step
from convsvc.service.store.tallies import Tally, add_tallies
from convsvc.service.store.task_logs import NOTHING, Report, keep_lines

WRITE = "write"  # the driver's phase whose tasks are the plan's tasks
# Tasks that one query asks for: SQLite takes 32,766 variables.
_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Started:
    """A task was handed out."""

    number: int
    attempt: int
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A task of the plan is done."""

    number: int
    seconds: float | None = None
    worker: str | None = None
    report: Report = NOTHING
    pace: dict[str, Any] | None = None  # see `pace.py`


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt at a task of the plan has failed."""

    number: int
    error: dict[str, Any]
    will_retry: bool
    report: Report = NOTHING
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """A task of a phase that writes nothing is done, the `done`th of `total`. Only told, not kept."""

    phase: str
    done: int
    total: int
    size_bytes: int
    report: Report = NOTHING
    number: int = 0
    pace: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line for the job's log."""

    message: str
    level: str = "info"
    number: int | None = None
    report: Report = NOTHING


Word = Started | Finished | Failed | Checked | Line


class Ledger:
    """Writes words about one job, whose row is locked, in the order in which they were said."""

    def __init__(self, session: Session, row: JobRow, words: Sequence[Word]) -> None:
        self._session, self._row = session, row
        self._tallies: list[Tally] = []
        numbers = sorted({word.number for word in words if isinstance(word, Started | Finished | Failed)})
        self._tasks: dict[int, TaskRow] = {task.number: task for task in self._asked(TaskRow, numbers)}
        self._attempts: defaultdict[int, list[AttemptRow]] = defaultdict(list)
        for attempt in self._asked(AttemptRow, numbers):
            self._attempts[attempt.task].append(attempt)

    def write(self, words: Iterable[Word]) -> None:
        """Raises ServiceError for a task that the job does not have."""
        for word in words:
            match word:
                case Started():
                    self._start(word, self._task(word.number))
                case Finished():
                    self._finish(word, self._task(word.number))
                case Failed():
                    self._fail(word, self._task(word.number))
                case Checked():
                    self._check(word)
                case Line():
                    attempt = word.report.attempt
                    add_log(self._session, self._row, word.message, level=word.level, task=word.number, attempt=attempt)
                    self._keep(word.report, word.number or 0)
        add_tallies(self._session, self._row.tenant, self._tallies)  # last, as it locks sums

    def _asked(self, kind: Any, numbers: Sequence[int]) -> Iterable[Any]:
        column = kind.number if kind is TaskRow else kind.task
        for at in range(0, len(numbers), _AT_ONCE):
            query = select(kind).where(kind.job_id == self._row.id, column.in_(numbers[at : at + _AT_ONCE]))
            yield from self._session.scalars(query if kind is TaskRow else query.where(AttemptRow.run == self._row.run))

    def _task(self, number: int) -> TaskRow:
        task = self._tasks.get(number)
        if task is None:
            raise ServiceError(f"job {self._row.id} has no task {number}")
        return task

    def _start(self, word: Started, task: TaskRow) -> None:
        now = now_of(self._session)
        self._row.resumable = True
        task.state, task.attempt, task.worker = task_step(task.state, "start"), max(word.attempt, task.attempt), word.worker
        task.started_at, task.ended_at, task.error = now, None, None
        self._end(word.number, LOST)  # one that was still open is lost, or the task would not be tried again
        key = (self._row.fence, word.attempt)
        there = next((found for found in self._attempts[word.number] if (found.fence, found.attempt) == key), None)
        if there is None:  # a start that is reported twice is one attempt
            self._add(new_attempt(self._row, word.number, word.attempt, now, worker=word.worker))
        else:
            there.ended_at = there.outcome = there.error = None
        self._tell(task)

    def _finish(self, word: Finished, task: TaskRow) -> None:
        now, row = now_of(self._session), self._row
        row.pace = word.pace
        row.claims = 1  # who brings a task to its end does not die of the job
        is_new = task.state != "done"  # or it is told again, as the answer to the first time got lost
        if is_new:
            row.tasks_done, row.bytes_done = row.tasks_done + 1, row.bytes_done + task.bytes
        if not self._end(word.number, DONE, worker=word.worker) and is_new:
            # One that was not seen to start has an attempt all the same, without a length.
            self._add(new_attempt(row, word.number, max(1, task.attempt), now, worker=word.worker, ended_at=now, outcome=DONE))
        task.state, task.ended_at, task.error = task_step(task.state, "finish"), now, None
        task.seconds, task.worker = word.seconds, word.worker or task.worker
        self._tell(task)
        if is_new:
            self._keep(word.report, word.number)

    def _fail(self, word: Failed, task: TaskRow) -> None:
        task.state, task.error, task.ended_at = task_step(task.state, "fail"), word.error, now_of(self._session)
        task.worker = word.worker or task.worker
        self._end(word.number, FAILED, error=word.error, worker=word.worker)
        self._tell(task, error=word.error, will_retry=word.will_retry)
        level, again = ("warning", "; it is tried again") if word.will_retry else ("error", "")
        where = f" on {word.worker}" if word.worker else ""
        message = f"task {task.name}{where}: {error_text(word.error)}{again}"
        add_log(self._session, self._row, message, level=level, task=word.number, attempt=word.report.attempt)
        self._keep(word.report, word.number)

    def _check(self, word: Checked) -> None:
        counts = {"tasks_done": word.done, "tasks_total": word.total, "bytes_done": word.size_bytes, "bytes_total": self._row.bytes_total}
        self._row.pace = word.pace
        add_event(self._session, self._row, "task", {"phase": word.phase, "state": "done", **counts})
        self._keep(word.report, word.number)

    def _keep(self, report: Report, task: int) -> None:
        keep_lines(self._session, self._row, task, report)
        self._tallies += report.tallies

    def _end(self, task: int, outcome: str, **more: Any) -> bool:
        open_ones = [attempt for attempt in self._attempts[task] if attempt.ended_at is None]
        for attempt in open_ones:
            attempt.ended_at, attempt.outcome = now_of(self._session), outcome
            for name, value in more.items():
                if value is not None:
                    setattr(attempt, name, value)
        return bool(open_ones)

    def _add(self, attempt: AttemptRow) -> None:
        self._session.add(attempt)
        self._attempts[attempt.task].append(attempt)

    def _tell(self, task: TaskRow, **more: Any) -> None:
        row = self._row
        state = {"phase": WRITE, "number": task.number, "name": task.name, "state": task.state, "attempt": task.attempt}
        counts = {name: getattr(row, name) for name in ("tasks_done", "tasks_total", "bytes_done", "bytes_total")}
        add_event(self._session, row, "task", {**state, **counts, **more})


def error_text(error: dict[str, Any]) -> str:
    """An error as lines of a log."""
    lines = [str(error.get("message", "")), *(f"  {fact}" for fact in error.get("facts") or ())]
    return "\n".join([*lines, f"  do: {error['do']}"] if error.get("do") else lines)
