"""What an executor tells of itself with each heartbeat: where it is, which version, its engine's machines, or since when that is away.

As JSON, kept in `executors.about`: {"host", "version", "spec_version", "jobs_at_once", "slots", "nodes", "away", "away_since"}.
"""

from __future__ import annotations

import socket
from datetime import datetime, timezone
from threading import Lock
from typing import Any

from convsvc import __version__
from convsvc.engine.base import Engine
from convsvc.spec import SPEC_VERSION

MOST_NODES = 1000  # of which it tells; the heartbeat is a row of the job store


class Presence:
    """Told by the slots of an executor, asked by its heart. An engine is opened with the first job: before that it has no machines."""

    def __init__(self, jobs_at_once: int = 1) -> None:
        self._jobs_at_once = jobs_at_once
        self._lock = Lock()
        self._engines: list[Engine] = []
        self._away: str | None = None
        self._since: datetime | None = None

    def opened(self, engine: Engine) -> None:
        with self._lock:
            self._engines.append(engine)
            self._away = self._since = None

    def closed(self, engine: Engine) -> None:
        with self._lock:
            self._engines = [one for one in self._engines if one is not engine]

    def away(self, why: str) -> None:
        """The engine does not answer; since the first time that this was said."""
        with self._lock:
            self._away, self._since = why, self._since or datetime.now(timezone.utc)

    def as_dict(self) -> dict[str, Any]:
        with self._lock:
            engines, away, since = list(self._engines), self._away, self._since
        nodes = {node.id: node for engine in engines for node in engine.nodes}
        return {
            "host": socket.gethostname(),
            "version": __version__,
            "spec_version": SPEC_VERSION,
            "jobs_at_once": self._jobs_at_once,
            "slots": max((engine.slots for engine in engines), default=None),
            "nodes": [{"id": node.id, "host": node.host, "slots": node.slots} for node in list(nodes.values())[:MOST_NODES]],
            "away": away,
            "away_since": since.isoformat() if since else None,
        }
