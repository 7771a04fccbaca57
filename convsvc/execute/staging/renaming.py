"""Renames that Python has not: two names exchanged in one step, and a rename that replaces nothing.

`renameat2(2)` (Linux 3.15) does both where the file system knows how: ext4, xfs, btrfs, tmpfs and overlayfs do, NFS does not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from pathlib import Path

from convsvc.errors import TargetExists
from convsvc.execute.staging.folders import shown

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # linux/fs.h
# For a C library without a function of that name (musl).
SYSTEM_CALLS = {"x86_64": 316, "aarch64": 276, "riscv64": 276}
AT_FDCWD = -100
NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM}

_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> bool:
    """Gives what lies at two paths each the other's name, in one step; False, and nothing has changed, where that is not known.

    Raises OSError.
    """
    return _renamed(one, other, RENAME_EXCHANGE)


def rename_new(path: Path, to: Path) -> None:
    """Renames what lies at `path`; never over anything. Raises OSError, TargetExists if something has the name."""
    try:
        if _renamed(path, to, RENAME_NOREPLACE):
            return
        taken = os.path.lexists(to)
    except FileExistsError:
        taken = True
    if taken:
        raise TargetExists(f"{shown(to)} appeared meanwhile", do="move it away and run the job again", details={"path": shown(to)})
    os.rename(path, to)


def _renamed(path: Path, to: Path, flags: int) -> bool:
    code = _renameat2(os.fsencode(path), os.fsencode(to), flags)
    if code == 0:
        return True
    if code in NOT_SUPPORTED:
        return False  # where it is forbidden and not unknown, the plain rename that follows says so
    raise OSError(code, os.strerror(code), str(path), None, str(to))


def _renameat2(path: bytes, to: bytes, flags: int) -> int:
    """0, or an errno."""
    call = getattr(_libc, "renameat2", None)
    number = SYSTEM_CALLS.get(platform.machine())
    if call is not None:
        done = call(AT_FDCWD, path, AT_FDCWD, to, ctypes.c_uint(flags))
    elif number is not None:
        done = _libc.syscall(ctypes.c_long(number), AT_FDCWD, ctypes.c_char_p(path), AT_FDCWD, ctypes.c_char_p(to), ctypes.c_uint(flags))
    else:
        return errno.ENOSYS
    return 0 if done == 0 else ctypes.get_errno()
