"""One phase of a run: all pending tasks of one mode, a bounded window of them in flight, failed ones tried again."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from convsvc import __version__
from convsvc.engine.base import Call, Engine, Outcome
from convsvc.engine.listener import Listener
from convsvc.engine.places import Places
from convsvc.errors import Canceled, ConvsvcError, EngineAway, PlaceUnfit, StorageError, error_from_dict
from convsvc.execute.staging.workspace import Staging
from convsvc.notes import Note, note_from_dict

FUNCTION = "convsvc.execute.worker:run_task"
PROBE, PROBE_TIMEOUT_S = "convsvc.engine.probe:answer", 20.0
# Calls handed to the engine for each of its slots, so that a worker never waits for its next one.
WINDOW_PER_SLOT = 2
POLL_S = 0.2
# How often it is looked how far running tasks are, and how much longer than the look itself nothing else is done in between.
LOOK_S, LOOK_SHARE = 2.0, 50
# How long running tasks are given to notice that they shall stop, before their workers are ended.
GRACE_S = 5.0
BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How often and how long a task is tried, who may end it all, and how much memory a task may need."""

    max_attempts: int
    task_timeout_s: float
    should_stop: Callable[[], bool]
    memory_bytes: int = 0

    def check_stop(self) -> None:
        """Raises Canceled if somebody asked to stop."""
        if self.should_stop():
            raise Canceled("the job was canceled")


@dataclass(slots=True)
class Tally:
    """What all phases of a run did; `skipped` tasks were done by an earlier run. `notes` are what tasks had to say of the values."""

    bytes_read: int = 0
    bytes_written: int = 0
    done: int = 0
    skipped: int = 0
    retried: int = 0
    notes: list[Note] = field(default_factory=list)


def backoff_s(attempt: int) -> float:
    """Seconds to wait before a task is tried again, after so many attempts.

    >>> [backoff_s(attempt) for attempt in (1, 2, 3, 20)]
    [0.5, 1.0, 2.0, 30.0]
    """
    return min(LONGEST_BACKOFF_S, BACKOFF_S * 2.0 ** min(attempt - 1, 10))


class Phase:
    """Runs the pending tasks of one mode ("write", "verify", "compare") to their end."""

    def __init__(self, mode: str, staging: Staging, engine: Engine, listener: Listener, limits: Limits, places: Places) -> None:
        self._mode = mode
        self._staging = staging
        self._engine = engine
        self._listener = listener
        self._limits = limits
        self._places = places
        self._names = staging.task_names(mode)
        self._attempts: dict[int, int] = {}
        # Attempts that were the task's own: not those that ended on a machine which cannot work at all.
        self._tries: dict[int, int] = {}
        self._in_flight: dict[str, int] = {}
        self._waiting: list[tuple[float, int]] = []  # a heap: (not before, task)
        self._next_look = monotonic() + LOOK_S

    def run(self, tally: Tally) -> None:
        """Raises the error of the first task that fails for good; Canceled if asked to stop."""
        pending = self._staging.pending(self._mode)
        if self._mode == "write" and len(pending) < len(self._names):
            tally.skipped += len(self._names) - len(pending)
            tally.notes += map(note_from_dict, self._staging.notes())
            self._listener.tasks_skipped(sorted(self._names.keys() - pending))
        self._listener.phase(self._mode, len(pending))
        self._waiting = [(0.0, task) for task in pending]
        try:
            while self._waiting or self._in_flight:
                self._limits.check_stop()
                self._fill_window()
                for outcome in self._engine.wait(POLL_S):
                    self._take(outcome, tally)
                self._look()
                self._listener.turn()
        except BaseException:  # also what a listener raises, and Ctrl-C: no task may go on behind our back
            with suppress(ConvsvcError):  # a disk that is full or read-only takes no sign either: then they are ended
                self._staging.ask_to_stop()
            self._engine.cancel_all(GRACE_S)
            raise

    def _look(self) -> None:
        began = monotonic()
        if began < self._next_look or not self._in_flight:
            return
        moved = self._staging.moved(self._mode, self._in_flight.values())
        if moved:
            self._listener.tasks_moved(moved)
        # On slow storage, or with very many tasks, it is looked less often: the driver has better things to do.
        self._next_look = monotonic() + max(LOOK_S, LOOK_SHARE * (monotonic() - began))

    def _fill_window(self) -> None:
        window = WINDOW_PER_SLOT * max(1, self._engine.slots)
        while self._waiting and len(self._in_flight) < window and self._waiting[0][0] <= monotonic():
            self._submit(heapq.heappop(self._waiting)[1])

    def _submit(self, task: int) -> None:
        attempt = self._attempts[task] = self._attempts.get(task, 0) + 1
        name = uuid.uuid4().hex[:12]
        staging = self._staging
        payload = {"staging": str(staging.path), "task": task, "mode": self._mode, "attempt": name, "fence": staging.fence}
        payload |= {
            "at": staging.task_at(self._mode, task),
            "roots": staging.plan.roots.as_json(),
            "owner": staging.owner,
            "version": __version__,
        }
        options = staging.plan.job.get("options", {})
        payload |= {name: options.get(name, "error") for name in ("on_overflow", "on_loss")}
        avoid = self._places.avoid(task, self._engine.places)
        call = Call(f"{self._mode}-{task}-{name}", FUNCTION, payload, self._limits.task_timeout_s, avoid, self._limits.memory_bytes)
        self._in_flight[call.id] = task
        self._listener.task_started(task, self._names[task], attempt)
        self._engine.submit(call)

    def _take(self, outcome: Outcome, tally: Tally) -> None:
        task = self._in_flight.pop(outcome.id, None)
        if task is None:
            return  # of an earlier phase or run, forgotten since
        if outcome.said:
            self._listener.task_said(task, outcome.said)
        if outcome.error is None:
            self._places.succeeded(outcome.place)
            self._count(outcome.value, tally)
            self._listener.task_done(task, {**outcome.value, "worker": outcome.worker})
        else:
            self._fail(task, outcome, outcome.error, tally)

    def _count(self, value: dict[str, Any], tally: Tally) -> None:
        tally.done += self._mode == "write"
        tally.bytes_read += value["bytes_read"]
        tally.bytes_written += value["bytes_written"]
        tally.notes += map(note_from_dict, value.get("notes", ()))

    def _fail(self, task: int, outcome: Outcome, error: dict[str, Any], tally: Tally) -> None:
        unfit = error.get("type") == PlaceUnfit.__name__ and not outcome.lost
        if unfit:
            self._places.unfit(outcome.place, str(error.get("message")))
            again, pause_s = not self._places.nowhere(self._engine.places), 0.0
        else:
            self._places.failed(task, outcome.place)
            tries = self._tries[task] = self._tries.get(task, 0) + 1
            again = (outcome.lost or bool(error.get("retryable"))) and tries < self._limits.max_attempts
            pause_s = backoff_s(tries)
        self._listener.task_failed(task, error, again, outcome.worker)
        if not again:
            raise self._final(task, outcome, error)
        tally.retried += 1
        heapq.heappush(self._waiting, (monotonic() + pause_s, task))

    def _final(self, task: int, outcome: Outcome, error: dict[str, Any]) -> ConvsvcError:
        nowhere = self._places.nowhere(self._engine.places)
        if nowhere:
            reasons = sorted(set(nowhere.values()))
            return StorageError(f"no machine can do the work, of {len(nowhere)}", facts=reasons[:12], do=error.get("do"))
        if not outcome.lost:
            return error_from_dict(error)
        if not self._places.succeeded_ever and not self._engine_answers():
            return EngineAway(
                f"no task comes back from the engine: {error['message']}", do="look at its cluster; the job goes on once it answers"
            )
        return StorageError(
            f"task {task} ({self._names[task]}) was lost {self._tries[task]} times: {error['message']}",
            do='look at the workers\' memory and storage, then run the job again with on_exists "resume"',
            details={"task": task, "attempts": self._tries[task], "last": error},
        )

    def _engine_answers(self) -> bool:
        """Whether the engine brings a call to its end that does nothing: then it is the job's tasks that end their workers."""
        probe = Call(f"probe-{uuid.uuid4().hex[:12]}", PROBE, {}, PROBE_TIMEOUT_S)
        self._engine.cancel_all(0)
        self._engine.submit(probe)
        until = monotonic() + 2 * PROBE_TIMEOUT_S
        while monotonic() < until:
            for outcome in self._engine.wait(POLL_S):
                if outcome.id == probe.id:
                    return not outcome.lost
            self._limits.check_stop()
        return False
