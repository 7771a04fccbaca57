"""Where a Ray of this process's own keeps its sockets and logs; what processes left that were killed is removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

# Ray puts sockets there, whose paths may be 107 bytes long at most: $TMPDIR may be too deep.
ROOT = Path("/tmp")
PREFIX, MARK = "cvs-", "in-use"


class RayHome:
    """A new directory with a lock in it, which the kernel takes from a process that ends, however it ends."""

    def __init__(self, root: Path = ROOT) -> None:
        sweep(root)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        self._mark = (self.path / MARK).open("w")
        fcntl.flock(self._mark, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Removes it, with all that is in it; twice is the same as once."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._mark.close()


def sweep(root: Path) -> None:
    """Removes the directories of this user whose process is gone. One without a lock is left: it may be a new one."""
    for mark in root.glob(f"{PREFIX}*/{MARK}"):
        if _left_behind(mark):
            shutil.rmtree(mark.parent, ignore_errors=True)


def _left_behind(mark: Path) -> bool:
    try:
        descriptor = os.open(mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(descriptor).st_uid != os.getuid() or mark.parent.is_symlink():
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
