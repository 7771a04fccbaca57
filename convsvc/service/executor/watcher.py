"""Watching beside the jobs: a thread of an executor that looks at watches that are due. The executors have the storage, the API may not."""

from __future__ import annotations

import logging
import threading

from convsvc.service.store.database import Database
from convsvc.service.watching.looker import Looker

_log = logging.getLogger("convsvc.executor")


class Watcher:
    """Looks every `poll_s` seconds whether a watch is due. Several, in several processes, take turns."""

    def __init__(self, database: Database, name: str, *, poll_s: float = 1, lease_s: float = 15) -> None:
        self._database, self._name, self._poll_s, self._lease_s = database, name, poll_s, lease_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Begin nothing more. Returns at once; safe in a signal handler."""
        self._stopped.set()

    def stop(self) -> None:
        """End. A look that is under way is broken off with the process: its lease runs out, and another looks again."""
        self.drain()
        self._thread.join(5)

    def _work(self) -> None:
        looker = Looker(self._database, self._name, should_stop=self._stopped.is_set, lease_s=self._lease_s)
        while not self._stopped.wait(self._poll_s):
            try:
                while not self._stopped.is_set() and looker.look():
                    pass
            except Exception:  # the database is away: it can wait
                _log.exception("watches could not be looked at")
