"""Keeps the executor running: started again when it ends, killed when it hangs."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable

_log = logging.getLogger("convsvc.serve")

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
STEADY_S = 60.0  # an executor that lived this long is restarted at once
DRAIN_S = 35.0
# An executor beats once a second. Silent for longer than its lease it is hung, and another one may have its jobs: but not their targets'
# locks, which only its death gives back.
SILENCE_S = 15.0
# Before its first beat it imports and opens the database.
START_S = 120.0
TICK_S = 0.5


class Supervisor:
    """Keeps a child process running: started again when it ends, after a pause that doubles while it keeps dying.

    The child is given `--pulse FD`, a pipe. When it has said nothing there for `silence_s` it is killed, as a process that is stopped or
    deadlocked cannot be asked to end. `heard` is called whenever it has said something, and once a tick while it starts.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str] | None = None,
        *,
        silence_s: float = SILENCE_S,
        heard: Callable[[], object] = lambda: None,
    ) -> None:
        self._command, self._environment = command, {**os.environ, **(environment or {})}
        self._silence_s, self._heard = silence_s, heard
        self._ending = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the child to end, wait for it, end it by force if it does not."""
        self._ending.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
        self._thread.join(DRAIN_S)
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    @property
    def pid(self) -> int | None:
        """The child's process id; None before the first start."""
        return self._child.pid if self._child else None

    def _keep(self) -> None:
        pause_s = FIRST_BACKOFF_S
        while not self._ending.is_set():
            began = time.monotonic()
            code = self._one_life()
            if self._ending.is_set():
                return
            pause_s = next_pause_s(pause_s, time.monotonic() - began)
            _log.warning("the executor ended with code %s; it is started again in %.1f s", code, pause_s)
            self._ending.wait(pause_s)

    def _one_life(self) -> int:
        """Starts the child and returns its exit code when it has ended."""
        ours, theirs = os.pipe()
        try:
            # A session of its own: Ctrl-C reaches this process only, which then ends the child in order.
            command = [*self._command, "--pulse", str(theirs)]
            self._child = subprocess.Popen(command, env=self._environment, start_new_session=True, pass_fds=[theirs])
        finally:
            os.close(theirs)
        if self._ending.is_set():
            self._child.terminate()
        with os.fdopen(ours, "rb", buffering=0) as pulse:
            self._listen(self._child, pulse.fileno())
        return self._child.wait()

    def _listen(self, child: subprocess.Popen[bytes], pulse: int) -> None:
        """Returns when the child is dead or dying."""
        until, starting = time.monotonic() + max(START_S, self._silence_s), True
        while child.poll() is None:
            if select.select([pulse], [], [], TICK_S)[0]:
                if not os.read(pulse, 4096):
                    return  # its end of the pipe is closed: it ends
                until, starting = time.monotonic() + self._silence_s, False
                self._heard()
            elif starting and time.monotonic() <= until:
                self._heard()
            elif time.monotonic() > until:
                _log.error("the executor, process %d, is silent: it is killed", child.pid)
                child.kill()
                return


def next_pause_s(last_s: float, lived_s: float) -> float:
    """How long to wait before a child that lived `lived_s` is started again.

    >>> next_pause_s(1.0, 2.0), next_pause_s(16.0, 500.0)
    (2.0, 0.5)
    """
    return FIRST_BACKOFF_S if lived_s >= STEADY_S else min(2 * last_s, LONGEST_BACKOFF_S)
