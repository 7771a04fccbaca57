"""Runs calls in processes of this machine. A process that dies or takes too long costs only its own call.

Workers are plain new interpreters, not forks and not multiprocessing's: nothing of the parent is inherited, and a script that
calls `convsvc.convert` is not run again in them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from time import monotonic, sleep
from typing import Any

from convsvc.engine.base import Call, Node, Outcome
from convsvc.engine.calling import lost, this_machine

CHILD = "from convsvc.engine.process_worker import serve; serve({descriptor})"
# numpy's BLAS would start a thread a core in every worker.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# The working directory is no place to import from, unless it was one for the parent.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


@dataclass(slots=True, eq=False)
class Worker:
    """A process, the connection to it, and the call it runs, if any."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    call: Call | None = None
    deadline: float = 0.0

    @property
    def name(self) -> str:
        return f"process-{self.process.pid}"

    def end(self) -> None:
        """Kills it if it still runs."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


class ProcessEngine:
    """An engine of `workers` processes (by default one a CPU this process may use), started when they are needed."""

    name = "process"

    def __init__(self, workers: int | None = None) -> None:
        self._slots = workers or len(os.sched_getaffinity(0))
        self._waiting: deque[Call] = deque()
        self._workers: list[Worker] = []

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def places(self) -> frozenset[str]:
        return frozenset({this_machine()})

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (Node(this_machine(), os.uname().nodename, self.slots),)

    def submit(self, call: Call) -> None:
        self._waiting.append(call)
        self._hand_out()

    def wait(self, timeout_s: float) -> list[Outcome]:
        until = monotonic() + timeout_s
        while True:
            outcomes = self._collect(min(until, self._next_deadline()))
            self._hand_out()
            if outcomes or monotonic() >= until:
                return outcomes

    def cancel_all(self, grace_s: float) -> None:
        """Forgets waiting calls, waits up to `grace_s` for running ones, then kills their processes."""
        self._waiting.clear()
        until = monotonic() + grace_s
        while self._busy() and monotonic() < until:
            self._collect(until)
        for worker in self._busy():
            self._end(worker)

    def close(self) -> None:
        self._waiting.clear()
        for worker in list(self._workers):
            self._end(worker)

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.call is not None]

    def _next_deadline(self) -> float:
        return min((worker.deadline for worker in self._busy()), default=float("inf"))

    def _hand_out(self) -> None:
        while self._waiting and (worker := self._idle_worker()) is not None:
            call = self._waiting.popleft()
            worker.call, worker.deadline = call, monotonic() + call.timeout_s
            try:
                worker.connection.send((call.id, call.function, call.payload))
            except OSError:
                continue  # it died while idle: `_collect` sees that its connection has ended, and says lost

    def _idle_worker(self) -> Worker | None:
        for worker in self._workers:
            if worker.call is None:
                return worker
        if len(self._workers) < self._slots:
            self._workers.append(_start_worker())
            return self._workers[-1]
        return None

    def _collect(self, until: float) -> list[Outcome]:
        """What ended until then; returns at once when something has."""
        busy = self._busy()
        remaining = max(0.0, until - monotonic())
        if not busy:
            sleep(remaining)
            return []
        ready = set(wait([worker.connection for worker in busy], remaining))
        ended = [self._receive(worker) for worker in busy if worker.connection in ready]
        late = [self._overdue(worker) for worker in self._busy() if worker.deadline <= monotonic()]
        return ended + late

    def _receive(self, worker: Worker) -> Outcome:
        call = worker.call
        assert call is not None
        try:
            value, error, said = worker.connection.recv()
        except (EOFError, OSError):
            how = _how_it_ended(worker.process)
            self._end(worker)
            return lost(call.id, f"worker {worker.name} died ({how})", worker.name, this_machine())
        worker.call = None
        return Outcome(call.id, value, error, worker=worker.name, place=this_machine(), said=said)

    def _overdue(self, worker: Worker) -> Outcome:
        call = worker.call
        assert call is not None
        self._end(worker)
        return lost(call.id, f"not done after {call.timeout_s:g} s; worker {worker.name} was ended", worker.name, this_machine())

    def _end(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.end()


def _start_worker() -> Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-c", CHILD.format(descriptor=theirs.fileno())]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**ENVIRONMENT, **os.environ, **SAFE_PATH, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches the driver only, which ends the workers in order
        )
    return Worker(process, Connection(ours.detach()))


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(1.0)  # its connection closes a moment before it is gone
    except subprocess.TimeoutExpired:
        return "its connection ended"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
