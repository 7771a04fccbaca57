"""Keeping house beside the jobs: purges the job store when that is due."""

from __future__ import annotations

import logging
from dataclasses import asdict

from convsvc.service.executor.aside import Aside
from convsvc.service.store.database import Database
from convsvc.service.store.retention import Retention, keep_house

_log = logging.getLogger("convsvc.executor")


class Housekeeper(Aside):
    """Looks whether something is to be forgotten."""

    def __init__(self, database: Database, retention: Retention, *, poll_s: float = 60) -> None:
        super().__init__("house", poll_s, "old jobs could not be purged")
        self._database, self._retention = database, retention

    def turn(self) -> None:
        purged = keep_house(self._database, self._retention)
        if purged is not None and any(asdict(purged).values()):
            _log.info("purged: %s", ", ".join(f"{count} {name}" for name, count in asdict(purged).items() if count))
