"""Work beside the jobs: a thread of an executor that looks now and then whether something is due. Several processes take turns."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod

_log = logging.getLogger("convsvc.executor")


class Aside(ABC):
    """Takes a turn every `poll_s` seconds. `failed` is what is logged of a turn that failed: the next one comes all the same."""

    def __init__(self, name: str, poll_s: float, failed: str) -> None:
        self._poll_s, self._failed = poll_s, failed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @abstractmethod
    def turn(self) -> None:
        """What is due now."""

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Begin nothing more. Returns at once; safe in a signal handler."""
        self._stopped.set()

    def stop(self) -> None:
        """End. A turn that is under way is broken off with the process: it goes on where it was, the next time."""
        self.drain()
        self._thread.join(5)

    def _work(self) -> None:
        while not self._stopped.wait(self._poll_s):
            try:
                self.turn()
            except Exception:  # the database is away: it can wait
                _log.exception(self._failed)
