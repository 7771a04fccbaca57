"""A bounded number of open files.

Relative paths lie beneath a directory file descriptor: when the staging directory is removed and made anew, a late worker's
descriptor still means the old one, and its opens fail instead of touching the new one's files. Absolute paths lie in the roots.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

from convsvc.plan.records import PlannedFile
from convsvc.roots import ANYWHERE, Roots
from convsvc.roots.beneath import open_beneath

MOST_OPEN = 128


class OpenFiles:
    """File descriptors of planned files, by number; the least recently used are closed."""

    def __init__(self, files: Sequence[PlannedFile], directory: int, flags: int, roots: Roots = ANYWHERE) -> None:
        self.files = files
        self._directory = directory
        # Not to wait for a writer where somebody has put a FIFO; on files it has no effect.
        self._flags = flags | os.O_CLOEXEC | os.O_NONBLOCK
        self._roots = roots
        self._open: OrderedDict[int, int] = OrderedDict()
        self.used: set[int] = set()

    def descriptor(self, number: int) -> tuple[int, bool]:
        """An open file descriptor, and whether it was opened just now. Raises OSError, PathRefused."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number], False
        while len(self._open) >= MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        descriptor = self._opened(number, self._flags)
        self._open[number] = descriptor
        self.used.add(number)
        return descriptor, True

    def stat(self, number: int) -> os.stat_result:
        """What lies at the path now. Raises OSError, PathRefused."""
        descriptor = self._opened(number, os.O_PATH)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _opened(self, number: int, flags: int) -> int:
        path = self.files[number].path
        return self._roots.open(path, flags) if os.path.isabs(path) else open_beneath(self._directory, path, flags)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
