"""Tries what a conversion asks of a file system: locks, direct I/O, renames, pages that two writers share, owner, room, speed.

A trial answers a `Finding` and never raises: what does not work is what one wants to know. Everything is made in a directory of its own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

OK, SLOWER, MISSING, BAD = "ok", "slower", "missing", "bad"
PAGE = mmap.PAGESIZE
BLOCK = 4 << 20
# linux/fcntl.h: locks of an open file, not of a process, so that one process can try them against itself.
F_OFD_SETLK = 37
RENAME_EXCHANGE, AT_FDCWD = 2, -100
UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.ENOLCK}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found. `result`: ok, slower (works, at a price), missing (convsvc goes without), bad (conversions fail or go wrong)."""

    trial: str
    result: str
    text: str
    do: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def try_all(folder: Path, speed_bytes: int) -> list[Finding]:
    """Every trial that needs one process. `folder` is there, ours and empty; what the trials make in it stays for its owner to remove."""
    trials: list[tuple[str, Callable[[], Finding]]] = [
        ("file system", lambda: _kind(folder)),
        ("owner", lambda: _owner(folder)),
        ("flock", lambda: _flock(folder)),
        ("fcntl lock", lambda: _fcntl(folder)),
        ("direct I/O", lambda: _direct(folder)),
        ("rename", lambda: _rename(folder)),
        ("exchange", lambda: _exchange(folder)),
        ("free space", lambda: _space(folder)),
        ("speed", lambda: _speed(folder, speed_bytes)),
    ]
    return [_tried(name, trial) for name, trial in trials]


def file_system_of(path: Path) -> str:
    """What the mount that a path lies in calls its file system, as /proc/self/mountinfo has it: "ext4", "nfs4", "fuse.juicefs"."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        number = re.search(r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)
    finally:
        os.close(descriptor)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if number and line.split()[0] == number[1]:
            return line.partition(" - ")[2].split()[0]
    return "unknown"


def _tried(name: str, trial: Callable[[], Finding]) -> Finding:
    try:
        return trial()
    except OSError as error:
        return Finding(name, BAD, f"{error.strerror or error}", "look at the mount's options and the directory's permissions")


def _kind(folder: Path) -> Finding:
    return Finding("file system", OK, file_system_of(folder))


def _owner(folder: Path) -> Finding:
    path = folder / "owner"
    path.touch(0o600)
    owner, ours = path.stat().st_uid, os.geteuid()
    if owner == ours:
        return Finding("owner", OK, f"new files are user {owner}'s, as this process is")
    return Finding(
        "owner",
        SLOWER,
        f"this process is user {ours}, new files are user {owner}'s (root_squash, or a mount's uid=)",
        "let all machines write as one user: what one of them makes the others must be able to change",
    )


def _flock(folder: Path) -> Finding:
    with (folder / "flock").open("w") as one, (folder / "flock").open("w") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            return Finding(
                "flock", MISSING, f"not known here: {error.strerror}", "mount with flock (Lustre: -o flock); until then one service"
            )
        if _takes(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)):
            return Finding("flock", BAD, "two have the same lock", "mount it with locks")
        return Finding("flock", OK, "one has it at a time")


def _fcntl(folder: Path) -> Finding:
    # struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    with (folder / "fcntl").open("w") as one, (folder / "fcntl").open("w") as other:
        try:
            fcntl.fcntl(one, F_OFD_SETLK, wanted)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            return Finding("fcntl lock", MISSING, f"not known here: {error.strerror}", "keep an SQLite job store elsewhere")
        if _takes(lambda: fcntl.fcntl(other, F_OFD_SETLK, wanted)):
            return Finding("fcntl lock", BAD, "two have the same lock", "keep an SQLite job store elsewhere")
        return Finding("fcntl lock", OK, "one has it at a time")


def _takes(take: Callable[[], object]) -> bool:
    try:
        take()
    except OSError:
        return False
    return True


def _direct(folder: Path) -> Finding:
    path = folder / "direct"
    with mmap.mmap(-1, PAGE) as page:
        page[:] = bytes(range(256)) * (PAGE // 256)
        try:
            written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            return Finding("direct I/O", SLOWER, f"O_DIRECT is not known here: {error.strerror}", "nothing: it goes through the page cache")
        try:
            os.write(written, page)
        finally:
            os.close(written)
        same = path.read_bytes() == page[:]
    if not same:
        return Finding("direct I/O", BAD, "what was written around the page cache is not what is read", "this file system cannot be used")
    return Finding("direct I/O", OK, "around the page cache")


def _rename(folder: Path) -> Finding:
    (folder / "new" / "inside").mkdir(parents=True)
    os.rename(folder / "new", folder / "renamed")
    (folder / "one").write_text("one")
    (folder / "two").write_text("two")
    os.rename(folder / "one", folder / "two")
    if (folder / "two").read_text() != "one" or not (folder / "renamed" / "inside").is_dir():
        return Finding(
            "rename", BAD, "a renamed file or directory is not where it should be", "this file system cannot be used for targets"
        )
    return Finding("rename", OK, "files and directories, in one step")


def _exchange(folder: Path) -> Finding:
    for name in ("left", "right"):
        (folder / name).mkdir()
        (folder / name / name).touch()
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    left, right = os.fsencode(folder / "left"), os.fsencode(folder / "right")
    if call is None or call(AT_FDCWD, left, AT_FDCWD, right, ctypes.c_uint(RENAME_EXCHANGE)) != 0:
        text = "two directories cannot be exchanged in one step (RENAME_EXCHANGE)"
        return Finding("exchange", MISSING, text, "nothing: an overwritten target is away for the moment between two renames")
    if not (folder / "left" / "right").exists():
        return Finding("exchange", BAD, "two directories were not exchanged, though it was said so", "do not overwrite targets here")
    return Finding("exchange", OK, "two directories in one step (RENAME_EXCHANGE)")


def _space(folder: Path) -> Finding:
    found = os.statvfs(folder)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    if not free:
        return Finding("free space", BAD, "none", "make room")
    return Finding("free space", OK, f"{free / 1e9:.1f} GB of {total / 1e9:.1f} GB")


def _speed(folder: Path, size_bytes: int) -> Finding:
    """Writing and reading one stream, synced and around the page cache where that is known. MB are of 1,000,000 bytes."""
    size_bytes = min(size_bytes, shutil.disk_usage(folder).free // 4) // BLOCK * BLOCK
    if not size_bytes:
        return Finding("speed", OK, "not measured")
    path = folder / "speed"
    with mmap.mmap(-1, BLOCK) as block:
        block.write(os.urandom(BLOCK))
        began = monotonic()
        _move(path, os.O_WRONLY | os.O_CREAT, lambda descriptor: os.write(descriptor, block), size_bytes)
        wrote = monotonic() - began
        began = monotonic()
        _move(path, os.O_RDONLY, lambda descriptor: os.readv(descriptor, [block]), size_bytes)
        read = monotonic() - began
    path.unlink()
    rates = f"{size_bytes / 1e6 / wrote:.0f} MB/s written and synced, {size_bytes / 1e6 / read:.0f} MB/s read"
    return Finding("speed", OK, f"{rates}, one stream of {size_bytes >> 20} MiB")


def _move(path: Path, flags: int, step: Callable[[int], int], size_bytes: int) -> None:
    try:
        descriptor = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    except OSError:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        done = 0
        while done < size_bytes and (moved := step(descriptor)):
            done += moved
        if flags & os.O_WRONLY:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
