"""One writer a target: a lock file beside it, held with flock, which the kernel gives back when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from convsvc.errors import TargetBusy
from convsvc.execute.holders import Holder

# File systems that know no flock (some mounts of Lustre or NFS). There, only the service's job store keeps two jobs apart.
NOT_SUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@dataclass(slots=True)
class Lock:
    """A held lock; `release` gives it back and removes its file."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """May be called again."""
        if self.descriptor < 0:
            return
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
        self.descriptor = -1


def take_lock(path: Path, target: Path, holder: Holder) -> Lock:
    """Takes the lock on `target` for `holder` at once, or not at all.

    Raises TargetBusy, whose details are the holder that has it; OSError where the file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _flock(descriptor, target)
            if _is_same_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder.as_dict()).encode(), 0)
                return Lock(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our open and our flock


def _flock(descriptor: int, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(descriptor, target) from None
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _busy(descriptor: int, target: Path) -> TargetBusy:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        holder = {}
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return TargetBusy(
        f"{who} is writing {target}",
        do="wait for it, cancel it, or choose another target",
        details={"target": str(target), **holder},
    )
