"""Opening what lies beneath a directory, and nothing else, whatever is swapped for a symbolic link meanwhile.

`openat2(2)` with RESOLVE_BENEATH (Linux 5.6) makes the kernel refuse while it walks. Where it is missing (older kernels, seccomp filters
that do not know it), the file is first taken with O_PATH, which touches neither devices nor FIFOs; where it lies is asked of the
descriptor; then that very file is opened through the descriptor. Both say EXDEV for what is not beneath.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# The same on all architectures: system calls since 5.1 are numbered alike.
SYS_OPENAT2 = 437
RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH = 0x02, 0x08  # linux/openat2.h
# Linux says EAGAIN if something was renamed anywhere while it walked over a "..", as in the links of hub caches.
TRIES = 64

_libc = ctypes.CDLL(None, use_errno=True)


class OpenHow(ctypes.Structure):
    """`struct open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(directory: int, path: str, flags: int) -> int:
    """A descriptor of what lies at `path`, relative to an open directory. Symbolic links are followed while they stay beneath.

    Raises OSError: with EXDEV for what is not beneath the directory, whether it exists or not.
    """
    if has_openat2():
        for _ in range(TRIES):
            try:
                return _openat2(directory, path, flags)
            except BlockingIOError:
                continue
    return _open_judged(directory, path, flags)


@contextmanager
def parent_beneath(directory: int, path: str) -> Iterator[tuple[int, str]]:
    """The open directory in which `path`, relative to an open directory, lies beneath it; and the name there. Raises OSError."""
    above, name = os.path.split(path)
    parent = open_beneath(directory, above or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        yield parent, name
    finally:
        os.close(parent)


@cache
def has_openat2() -> bool:
    """Whether this kernel has it and lets us use it; asked once a process."""
    try:
        os.close(_openat2(-1, "/", os.O_PATH, resolve=0))
    except OSError:
        return False
    return True


def _openat2(directory: int, path: str, flags: int, resolve: int = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS) -> int:
    how = OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    name = ctypes.c_char_p(os.fsencode(path))
    while True:
        got = _libc.syscall(ctypes.c_long(SYS_OPENAT2), ctypes.c_int(directory), name, ctypes.byref(how), ctypes.c_size_t(24))
        if got >= 0:
            return int(got)
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path)


def _open_judged(directory: int, path: str, flags: int) -> int:
    top = real_path(directory)
    try:
        reached = os.open(path, os.O_PATH | os.O_CLOEXEC | flags & (os.O_DIRECTORY | os.O_NOFOLLOW), dir_fd=directory)
    except OSError:
        # What is not beneath is refused in the same words whether it exists or not.
        if not is_within(os.path.realpath(os.path.join(top, path)), top):
            raise _outside(path) from None
        raise
    try:
        if not is_within(real_path(reached), top):
            raise _outside(path)
        if flags & os.O_PATH:
            return os.dup(reached)
        if stat.S_ISLNK(os.fstat(reached).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return os.open(f"/proc/self/fd/{reached}", flags & ~os.O_NOFOLLOW | os.O_CLOEXEC)
    finally:
        os.close(reached)


def real_path(descriptor: int) -> str:
    """Where an open file or directory lies, without links. Raises OSError."""
    return os.readlink(f"/proc/self/fd/{descriptor}")


def is_within(path: str, directory: str) -> bool:
    """Whether an absolute path without links is the directory or something in it. Pure.

    >>> is_within("/data/a", "/data"), is_within("/data", "/data"), is_within("/database", "/data"), is_within("/data", "/")
    (True, True, False, True)
    """
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _outside(path: str) -> OSError:
    return OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
