"""How many tasks a Ray cluster runs at once, asked again and again: nodes come and go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)

REFRESH_S = 3.0


class Slots:
    """The CPUs of a cluster that `ask` says, and `most` at most if it is given; at least one, so that work waits for a node.

    Asked in a thread: while the head does not answer, the question takes as long as Ray waits for it, and the last answer holds.
    """

    def __init__(self, ask: Callable[[], float], most: int | None, refresh_s: float = REFRESH_S) -> None:
        self._ask, self._most, self._refresh_s = ask, most, refresh_s
        self._closed = threading.Event()
        self._count = self._bounded(ask())
        self._thread = threading.Thread(target=self._follow, name="ray-slots", daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        return self._count

    def close(self) -> None:
        self._closed.set()
        self._thread.join(2 * self._refresh_s)  # it may be asking: Ray shall not be shut down under it

    def _follow(self) -> None:
        while not self._closed.wait(self._refresh_s):
            try:
                count = self._bounded(self._ask())
            except Exception as error:  # whatever Ray raises while its head is away
                _log.debug("the cluster did not say what it has: %s", error)
                continue
            if count != self._count:
                _log.info("the cluster runs %d tasks at once now, before %d", count, self._count)
            self._count = count

    def _bounded(self, cpus: float) -> int:
        return max(1, min(int(cpus), self._most or int(cpus)))
