"""Keeping house beside the jobs: a thread of an executor that purges the job store when that is due."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict

from convsvc.service.store.database import Database
from convsvc.service.store.retention import Retention, keep_house

_log = logging.getLogger("convsvc.executor")


class Housekeeper:
    """Looks every `poll_s` seconds whether something is to be forgotten. Several, in several processes, take turns."""

    def __init__(self, database: Database, retention: Retention, *, poll_s: float = 60) -> None:
        self._database, self._retention, self._poll_s = database, retention, poll_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="house", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Begin nothing more. Returns at once; safe in a signal handler."""
        self._stopped.set()

    def stop(self) -> None:
        """End. A purge that is under way is broken off with the process: it goes on where it was, the next time."""
        self.drain()
        self._thread.join(5)

    def _work(self) -> None:
        while not self._stopped.wait(self._poll_s):
            try:
                purged = keep_house(self._database, self._retention)
            except Exception:  # the database is away: it can wait
                _log.exception("old jobs could not be purged")
                continue
            if purged is not None and any(asdict(purged).values()):
                _log.info("purged: %s", ", ".join(f"{count} {name}" for name, count in asdict(purged).items() if count))
