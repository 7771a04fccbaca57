"""What a call has to say: the log records of its thread, which travel with its outcome from the worker to the driver.

A worker may be on another machine, whose own log nobody reads. What it says is bounded, whatever it runs into.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Line = dict[str, Any]

MOST_LINES = 200
MOST_BYTES = 64 << 10
_LONGEST = 4 << 10  # characters of one message

_ours = logging.getLogger("convsvc")


class Said(logging.Handler):
    """Keeps the records of the thread that made it, as JSON: {"at": seconds since 1970, "level", "message"}."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._thread = threading.get_ident()
        self._bytes = self._dropped = 0
        self._lines: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread:
            return  # another call's, or the process's own
        record.said = True  # so that a log of this process, where it has one, need not show it twice
        message = self.format(record)
        message = message if len(message) <= _LONGEST else message[:_LONGEST] + "…"
        self._bytes += len(message.encode(errors="replace"))
        if len(self._lines) >= MOST_LINES or self._bytes > MOST_BYTES:
            self._dropped += 1
            return
        self._lines.append({"at": record.created, "level": record.levelname.lower(), "message": message})

    @property
    def lines(self) -> tuple[Line, ...]:
        """In their order; where there were too many, the last one says how many are missing."""
        if not self._dropped:
            return tuple(self._lines)
        last = {"at": self._lines[-1]["at"], "level": "warning", "message": f"{self._dropped} more lines were dropped"}
        return (*self._lines, last)


@contextmanager
def hearing() -> Iterator[Said]:
    """Hears what convsvc's loggers are told in this thread, until the block ends."""
    said = Said()
    _ours.addHandler(said)
    try:
        yield said
    finally:
        _ours.removeHandler(said)


def speak_up() -> None:
    """Let a worker process's loggers through from INFO on; by default Python stops them below WARNING."""
    _ours.setLevel(logging.INFO)
