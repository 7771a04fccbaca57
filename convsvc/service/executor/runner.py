"""Runs one claimed job with the planner, an engine and the driver, and reports to the job store."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from convsvc.engine.base import Engine
from convsvc.engine.listener import Listener
from convsvc.errors import Canceled, ConvsvcError, EngineAway, PathRefused
from convsvc.execute.staging.holders import this_process
from convsvc.execute.staging.publishing import discard_left, is_published, tidy_published
from convsvc.execute.staging.report import notes_in
from convsvc.execute.staging.report_files import read_report
from convsvc.execute.staging.sites import take_from
from convsvc.plan.plan import Plan
from convsvc.roots import Roots
from convsvc.service.executor.bounds import Bounds
from convsvc.service.executor.checking import run_check
from convsvc.service.executor.presence import Presence
from convsvc.service.executor.succession import after_predecessor
from convsvc.service.observe.tracing import JobSpans
from convsvc.service.store.claims import Claim, Claims, PlannedTask
from convsvc.service.store.ledger import WRITE, Checked, Failed, Finished, Line, Started, Word
from convsvc.service.store.models import DEFAULT_TENANT
from convsvc.service.store.pace import Meter
from convsvc.service.store.states import JobEvent
from convsvc.service.store.task_logs import Report, ended_attempt
from convsvc.units import counted

_log = logging.getLogger("convsvc.job")

# The driver's phases that are a state of the job.
_STATES: dict[str, JobEvent] = {"seal": "seal", "verify": "verify", "compare": "verify", "reopen": "verify", "publish": "seal"}


# What is told of tasks is written together: at the latest after so many seconds, or when it is so many words.
HOLD_S, MOST_WORDS = 0.25, 400


class StoreListener(Listener):
    """Writes what the driver tells into the job store. Raises LeaseLost, which ends the run, once another executor has the job.

    What happens to tasks is held back for a moment (`HOLD_S`) if there was something just before, so that a job of thousands of small
    tasks does not wait for its bookkeeping. Whoever ends the run calls `flush`.
    """

    def __init__(self, claims: Claims, claim: Claim, spans: JobSpans | None = None) -> None:
        self._words: list[Word] = []
        self._written_at = float("-inf")
        self._claims, self._claim, self._spans = claims, claim, spans or JobSpans()
        self._phase, self._total, self._done, self._bytes = "", 0, 0, 0
        self._sizes: dict[int, int] = {}
        self._skipped: tuple[int, ...] = ()
        self._moved: dict[int, int] = {}
        self._meter = Meter("", 0)
        self._attempts: dict[int, int] = {}
        self._said: Sequence[dict[str, Any]] = ()

    def begins(self) -> None:
        """The engine is there, the job is looked at."""
        self._claims.begin(self._claim)

    def turn(self) -> None:
        if self._words and (len(self._words) >= MOST_WORDS or monotonic() - self._written_at >= HOLD_S):
            self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        if self._words:
            words, self._words = self._words, []
            self._claims.told(self._claim, words)
            self._written_at = monotonic()

    def _say(self, word: Word) -> None:
        self._words.append(word)
        self.turn()

    def planned(self, plan: Plan) -> None:
        """The plan is made; not the driver's to tell."""
        if self._claim.job.mode != "convert":
            self._read_only(plan)
            return
        tasks = [PlannedTask(task.id, task.name, task.bytes_out) for task in plan.tasks]
        self._sizes = {task.number: task.bytes for task in tasks}
        self._claims.planned(self._claim, plan.model_type, plan.summary(), tasks)
        self.log(f"planned {plan.model_type}: {counted(len(tasks), 'task')}, {plan.bytes_in} bytes to read, {plan.bytes_out} to write")
        for note in plan.notes:
            self.log(str(note))
        self._spans.step("open")

    def compares(self) -> None:
        """Nothing is planned: two checkpoints are compared."""
        self._claims.planned(self._claim, self._claim.job.model_type, None, ())
        self._spans.step("open")

    def _read_only(self, plan: Plan) -> None:
        """Of a job that writes nothing the tasks are no tasks: what they would write is computed and compared."""
        self._claims.planned(self._claim, plan.model_type, plan.summary(), ())
        self.log(f"planned {plan.model_type}: {plan.bytes_out} bytes to compare")
        for note in plan.notes:
            self.log(str(note))
        self._spans.step("open")

    def phase(self, name: str, total: int) -> None:
        self.flush()
        self._phase, self._total, self._done, self._bytes = name, total, 0, 0
        self._attempts.clear()
        self._spans.step(name)
        self._moved.clear()
        # What `compare` reads is known once it has read it.
        bytes_total = sum(self._sizes.values()) if name in (WRITE, "verify") else 0
        self._meter = Meter(name, total, bytes_total, sum(self._sizes.get(task, 0) for task in self._skipped))
        pace = self._meter.as_dict() if total else None
        self._claims.phase(self._claim, name, total, _STATES.get(name), pace, skipped=self._skipped)
        self._skipped = ()
        self.log(f"{name}: {counted(total, 'task')}" if total else name)

    def tasks_skipped(self, tasks: Sequence[int]) -> None:
        self._skipped = tuple(tasks)  # told with the phase, which comes next

    def task_said(self, task: int, lines: Sequence[dict[str, Any]]) -> None:
        self._said = lines  # kept with the report of how the attempt ended, which comes next

    def task_started(self, task: int, name: str, attempt: int) -> None:
        self._attempts[task] = attempt
        self._spans.task_started(task, name, attempt)
        if self._phase == WRITE:
            self._say(Started(task, attempt))

    def tasks_moved(self, moved: dict[int, int]) -> None:
        self._moved = {task: min(size, self._sizes.get(task, size)) for task, size in moved.items()}
        self._meter.moved(sum(self._moved.values()))
        self.flush()
        self._claims.moves(self._claim, self._meter.as_dict())

    def waits(self, reason: str, text: str) -> None:
        """The job waits for something that is not the engine's."""
        self.flush()
        self._claims.waits(self._claim, reason, text)

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        self._moved.pop(task, None)
        self._meter.done(self._sizes.get(task, 0), sum(self._moved.values()))
        pace = self._meter.as_dict()
        report = self._report("done", task, result, worker=str(result.get("worker")))
        self._spans.task_ended(task, result)
        if self._phase == WRITE:
            self._say(Finished(task, result.get("seconds"), result.get("worker"), report, pace))
            return
        self._done, self._bytes = self._done + 1, self._bytes + int(result.get("bytes_read", 0))
        self._say(Checked(self._phase, self._done, self._total, self._bytes, report, task, pace))

    def task_failed(self, task: int, error: dict[str, Any], will_retry: bool, worker: str) -> None:
        report = self._report("retried" if will_retry else "failed", task, {}, worker)
        self._spans.task_ended(task, {"will_retry": will_retry}, error=str(error.get("message")))
        again = "; it is tried again" if will_retry else ""
        where = f" on {worker}" if worker else ""
        extra = {"task": task, "attempt": report.attempt, "worker": worker}
        _log.warning("%s task %d%s: %s%s", self._phase, task, where, error.get("message"), again, extra=extra)
        if self._phase == WRITE:
            self._say(Failed(task, error, will_retry, report, worker or None))
        else:
            message = f"{self._phase}{where}: {error.get('message')}{again}"
            self._say(Line(message, "warning", task, report))

    def log(self, message: str) -> None:
        _log.info("%s", message)
        self._say(Line(message))

    def _report(self, outcome: str, task: int, result: dict[str, Any], worker: str | None = None) -> Report:
        """What the attempt said goes to the executor's own log too."""
        report = ended_attempt(outcome, self._attempts.get(task), self._said, result)
        self._said = ()
        for line in report.lines:
            extra = {"task": task, "attempt": report.attempt, "worker": worker}
            _log.log(getattr(logging, line["level"].upper(), logging.INFO), "%s", line["message"], extra=extra)
        return report


class Runner(Protocol):
    """Runs a claimed job to its end and answers the result as JSON.

    Raises the ConvsvcError that the job fails with, Canceled if `should_stop` said so; lets through what `should_stop` raises.
    """

    def __call__(self, claim: Claim, listener: StoreListener, should_stop: Callable[[], bool]) -> dict[str, Any]: ...

    def close(self) -> None: ...


class EngineRunner:
    """The real one. Its engine is made for the first job and kept for the next ones."""

    def __init__(
        self,
        engine: str,
        workers: int | None = None,
        ray_address: str | None = None,
        memory_limit_bytes: int | None = None,
        presence: Presence | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self._bounds = bounds or Bounds()
        self._presence = presence or Presence()
        self._name, self._workers, self._ray_address = engine, workers, ray_address
        self._memory_limit_bytes = memory_limit_bytes
        self._engine: Engine | None = None

    def __call__(self, claim: Claim, listener: StoreListener, should_stop: Callable[[], bool]) -> dict[str, Any]:
        from convsvc.conversion import run
        from convsvc.execute.forecast import check_memory
        from convsvc.plan.planner import make_plan

        if claim.job.mode != "convert":
            return run_check(claim, listener, self._bounds.until_deadline(should_stop, goes_on=False), roots_of(claim))
        target, roots = Path(os.path.realpath(claim.job.target.path)), roots_of(claim)
        holder, take = this_process(claim.job_id, claim.fence), partial(take_from, target, roots)
        if claim.publishing and is_published(target):
            after_predecessor(claim, lambda: tidy_published(target, roots, holder), take, should_stop, listener.log, waits=listener.waits)
            listener.log("the target had been moved into place when the last executor died: nothing is left to do")
            report, said = read_report(target, roots)
            return {"target": claim.job.target.path, "report": report, "notes": notes_in(said)}
        if claim.canceling:
            after_predecessor(claim, lambda: discard_left(target, roots, holder), take, should_stop, listener.log, waits=listener.waits)
            raise Canceled("the job was canceled")
        engine = self._open()  # first, so that a cluster that is away costs no planning
        listener.begins()
        should_stop = self._bounds.until_deadline(should_stop)
        plan = make_plan(claim.job, roots)
        check_memory(plan, self._memory_limit_bytes)
        listener.planned(plan)
        _check_canceled(should_stop)
        try:
            todo = on_exists(claim)
            limits = {"task_timeout_s": self._bounds.task_timeout_s}
            result = after_predecessor(
                claim,
                lambda: run(plan, engine, on_exists=todo, listener=listener, should_stop=should_stop, holder=holder, **limits),
                take,
                lambda: _check_canceled(should_stop),
                listener.log,
                waits=listener.waits,
            )
        except ConvsvcError as error:
            if isinstance(error, EngineAway):
                self.close()
            raise
        except Exception:
            self.close()  # an engine that failed in a way nobody foresaw is not used again
            raise
        return result.as_dict()

    def close(self) -> None:
        if self._engine is not None:
            self._presence.closed(self._engine)
            self._engine.close()
            self._engine = None

    def _open(self) -> Engine:
        from convsvc.engine import make_engine

        if self._engine is None:
            self._engine = make_engine(
                self._name, workers=self._workers, ray_address=self._ray_address, autoscaling=self._bounds.autoscaling
            )
            self._presence.opened(self._engine)
        return self._engine


def roots_of(claim: Claim) -> Roots:
    """Where the job may read and write.

    Without roots the default tenant's jobs may go anywhere: they came from this machine, since a token's need roots to be accepted. Raises
    PathRefused if another tenant has none, or none any more.
    """
    if not claim.roots and claim.tenant != DEFAULT_TENANT:
        raise PathRefused(f"tenant {claim.tenant} has no roots, so its jobs may read and write nowhere", details={"tenant": claim.tenant})
    return Roots(claim.roots)


def on_exists(claim: Claim) -> str:
    """What the run does about files that are there: as the job says at first, and "resume" once the job has begun to write."""
    stated = claim.job.options.on_exists
    if not claim.resume:
        return stated
    return "resume-overwrite" if stated == "overwrite" else "resume"


def _check_canceled(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Canceled("the job was canceled")
