"""The executor's pulse: a file whose time says when it last showed that it lives, for whoever may only run a command beside it.

The supervisor touches it whenever it hears the executor, so a supervisor that hangs is noticed as well. Neither Ray nor the database has
a say in it: that they are away is no reason to end an executor, which waits for them.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from convsvc.service.executor.supervisor import SILENCE_S
from convsvc.service.store.database import default_home

_log = logging.getLogger("convsvc.executor")

VARIABLE = "CONVSVC_PULSE_FILE"
# Older than this it is the pulse of an executor whose supervisor does not act: it would have started another one.
STALE_S = 2 * SILENCE_S


def pulse_file() -> Path:
    """$CONVSVC_PULSE_FILE, or a file beside the default job store."""
    return Path(os.environ.get(VARIABLE) or default_home() / "executor.pulse")


class Pulse:
    """Keeps the file's time young. A file that cannot be written is told once: nobody dies of that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_told = False

    def beat(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
            try:
                os.utime(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._is_told:
                _log.warning("%s cannot be written, so `convsvc executor --check` will fail: %s", self._path, error.strerror)
            self._is_told = True


def pulse_age_s(path: Path) -> float | None:
    """How long ago the executor was last heard; None if there is no pulse."""
    try:
        return max(0.0, time.time() - os.stat(path).st_mtime)
    except OSError:
        return None
