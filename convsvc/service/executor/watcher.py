"""Watching beside the jobs: looks at watches that are due. The executors have the storage, the API may not."""

from __future__ import annotations

from convsvc.service.executor.aside import Aside
from convsvc.service.store.database import Database
from convsvc.service.watching.looker import Looker


class Watcher(Aside):
    """A look that is broken off has a lease, which runs out: another looks again."""

    def __init__(self, database: Database, name: str, *, poll_s: float = 1, lease_s: float = 15) -> None:
        super().__init__("watcher", poll_s, "watches could not be looked at")
        self._looker = Looker(database, name, should_stop=self._stopped.is_set, lease_s=lease_s)

    def turn(self) -> None:
        while not self._stopped.is_set() and self._looker.look():
            pass
