"""Runs calls one after the other in a thread of this process: nothing to start, nothing to kill."""

from __future__ import annotations

import os
import queue
import threading

from convsvc.engine.base import Call, Node, Outcome
from convsvc.engine.calling import run_call, this_machine


class InlineEngine:
    """An engine with one slot. A call that is running cannot be ended from outside: deadlines are not enforced here.

    Calls run in a thread, so that whoever drives the engine can go on listening for a request to stop.
    """

    name = "inline"

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    @property
    def slots(self) -> int:
        return 1

    @property
    def places(self) -> frozenset[str]:
        return frozenset({this_machine()})

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (Node(this_machine(), os.uname().nodename, self.slots),)

    def submit(self, call: Call) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="convsvc-inline", daemon=True)
            self._thread.start()
        self._calls.put(call)

    def wait(self, timeout_s: float) -> list[Outcome]:
        try:
            outcomes = [self._outcomes.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        while not self._outcomes.empty():
            outcomes.append(self._outcomes.get())
        return outcomes

    def cancel_all(self, grace_s: float) -> None:
        """Forgets waiting calls; waits up to `grace_s` for the running one, which stops if it looks for a sign to."""
        self._forget()
        self._idle.wait(grace_s)

    def close(self) -> None:
        if self._thread is not None:
            self._forget()
            self._calls.put(None)
            self._thread = None

    def _forget(self) -> None:
        try:
            while True:
                self._calls.get_nowait()
        except queue.Empty:
            return

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._idle.clear()
            self._outcomes.put(run_call(call, f"inline-{os.getpid()}", this_machine()))
            self._idle.set()
