"""One writer a target: a lock file beside it, held with flock, which the kernel gives back when its holder dies.

A holder that hangs where nobody can end it (another container, another machine) keeps its flock. Its successor in the same job puts the
file away, and so takes the lock from it: whoever holds a lock looks whether its file is still there before each step that others would
see, and ends without taking it when it is not. What is left is the moment between that look and the step.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convsvc.errors import Superseded, TargetBusy, TargetError
from convsvc.execute.staging.folders import owner_of_new, shown
from convsvc.execute.staging.holders import Holder, holder_from_dict

# File systems that know no flock (some mounts of Lustre or NFS). There, only the service's job store keeps two jobs apart.
NOT_SUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
# A holder takes some 300.
MOST_BYTES = 4096
# How often a lock is taken that is gone by then. Only somebody who keeps putting another file there gets so far.
TRIES = 100


@dataclass(slots=True)
class Lock:
    """A held lock; `release` gives it back and removes its file."""

    path: Path
    descriptor: int
    says: bytes

    def check(self) -> None:
        """Raises Superseded if somebody has taken the lock from its holder, or its file was removed; OSError where it cannot be read.

        The file is opened anew, which is what a network file system answers from its server, and says who has it where there is no flock.
        """
        if self.descriptor < 0 or _says(self.path) != self.says:
            raise Superseded(
                f"{shown(self.path)} is this process's no more: another took it, as this one was silent for too long, or it was removed",
                do="nothing where another run goes on with this target; else run the job again",
            )

    def release(self) -> None:
        """May be called again."""
        if self.descriptor < 0:
            return
        with suppress(OSError):  # gone, or the file system has become read-only: a file that nobody locks is free
            if _says(self.path) == self.says:
                self.path.unlink()
        os.close(self.descriptor)
        self.descriptor = -1


def take_lock(path: Path, target: Path, holder: Holder) -> Lock:
    """Takes the lock on `target` for `holder` at once, or not at all.

    Raises TargetBusy, whose details are the holder that has it; TargetError where something else bears the lock's name; OSError where
    the file cannot be made.
    """
    for _ in range(TRIES):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _no_lock(path) from error
            raise
        try:
            _check_lock(descriptor, path)
            _flock(descriptor, target)
            if _is_same_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                says = json.dumps(holder.as_dict()).encode()
                os.pwrite(descriptor, says, 0)
                return Lock(path, descriptor, says)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our open and our flock
    raise _no_lock(path)


def break_lock(path: Path, holder: Holder) -> bool:
    """Takes the lock from `holder` by putting its file away; False, and nothing has changed, if somebody else has it by now.

    Only for who knows that the holder shall write no more (the job store gave its job to another). Raises OSError.
    """
    aside = path.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(path, aside)  # looked at afterwards: nobody can put another file between the look and this
    except FileNotFoundError:
        return True
    try:
        if _holder(_says(aside)) == holder.as_dict():
            return True
        with suppress(FileExistsError):
            os.link(aside, path)
        return False
    finally:
        aside.unlink()


def holder_of(path: Path) -> Holder | None:
    """Who the lock's file says has it, or had it and died; None where there is no file, or it says nothing. Raises OSError."""
    says = _holder(_says(path))
    return Holder(**says) if says else None


def _says(path: Path) -> bytes:
    """What a lock's file says; nothing where there is none. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(descriptor, MOST_BYTES, 0)
    finally:
        os.close(descriptor)


def _holder(says: bytes) -> dict[str, Any]:
    try:
        return holder_from_dict(json.loads(says)).as_dict()
    except (ValueError, TypeError, AttributeError):
        return {}


def _check_lock(descriptor: int, path: Path) -> None:
    """What is found at the lock's name must be one of ours: it is written to, and whoever owns the directory can put anything there."""
    status = os.fstat(descriptor)
    ours = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 and status.st_size <= MOST_BYTES
    if not ours or (status.st_uid != os.geteuid() and status.st_uid != owner_of_new(path.parent)):
        raise _no_lock(path)


def _no_lock(path: Path) -> TargetError:
    return TargetError(
        f"{shown(path)} is in the way: it is not a lock of this service",
        do="remove it, or choose another target",
        details={"path": shown(path)},
    )


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
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _busy(descriptor: int, target: Path) -> TargetBusy:
    try:
        holder = json.loads(os.pread(descriptor, MOST_BYTES, 0))
    except ValueError:
        holder = {}
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return TargetBusy(
        f"{who} is writing {target}",
        do="wait for it, cancel it, or choose another target",
        details={"target": str(target), **holder},
    )
