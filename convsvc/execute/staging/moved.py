"""How far tasks that run have come: a few bytes in the staging directory, written now and then by their workers, read by the driver.

Only told, never relied upon: what cannot be written or read is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic

from convsvc.execute.staging.marks import moved_path

EVERY_S = 1.0
_LONGEST = 20  # digits of a number of bytes


class Moved:
    """Notes how many bytes a task has moved, at most every `EVERY_S` seconds. `directory` is the staging directory's descriptor."""

    def __init__(self, directory: int, mode: str, task: int, clock: Callable[[], float] = monotonic) -> None:
        self._directory, self._path, self._clock = directory, moved_path(mode, task), clock
        self._next = clock()  # the first word replaces that of an earlier attempt

    def note(self, size_bytes: int) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + EVERY_S
        with suppress(OSError):  # a disk that is full is found out where it matters
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._directory)
            try:
                # Always as long, in one write: who reads meanwhile reads an old number or the new one.
                os.pwrite(descriptor, str(size_bytes).rjust(_LONGEST).encode(), 0)
            finally:
                os.close(descriptor)


def read_moved(directory: int, mode: str, tasks: Iterable[int]) -> dict[int, int]:
    """Bytes moved so far, by task; those that have said nothing yet are left out."""
    found = {}
    for task in tasks:
        with suppress(OSError, ValueError):
            descriptor = os.open(moved_path(mode, task), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                found[task] = int(os.pread(descriptor, _LONGEST, 0))
            finally:
                os.close(descriptor)
    return found
