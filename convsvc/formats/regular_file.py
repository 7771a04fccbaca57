"""Opening a checkpoint's file for its headers: regular files only, positioned reads, no read past the end goes unnoticed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from convsvc.errors import FormatError, StorageError


@dataclass(frozen=True, slots=True)
class RegularFile:
    """A regular file open for reading. `size_bytes` is its size when it was opened."""

    path: str
    size_bytes: int
    descriptor: int

    def read(self, file_offset: int, size_bytes: int, what: str) -> bytes:
        """Exactly `size_bytes` bytes from `file_offset` on; `what` names them in the error.

        Raises FormatError where the file ends before, StorageError where the disk fails.
        """
        if file_offset + size_bytes > self.size_bytes:
            raise FormatError(
                f"{self.path} is cut short",
                facts=[f"{what} is at bytes {file_offset} to {file_offset + size_bytes}, the file has {self.size_bytes}"],
                do="copy or download the file again",
            )
        parts: list[bytes] = []
        done = 0
        while done < size_bytes:
            parts.append(self._read_some(file_offset + done, size_bytes - done, what))
            done += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, file_offset: int, size_bytes: int, what: str) -> bytes:
        try:
            data = os.pread(self.descriptor, size_bytes, file_offset)
        except OSError as error:
            raise StorageError(f"cannot read {self.path}", facts=[f"{what}: {error.strerror}"]) from error
        if not data:
            raise FormatError(f"{self.path} became shorter while it was read", facts=[f"{what} is missing"])
        return data


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[RegularFile]:
    """Open a regular file that is not empty; symbolic links are followed (hub caches are made of them).

    O_NONBLOCK, so that opening a FIFO does not wait for a writer; what is opened is judged by the descriptor, not by the path.
    Raises FormatError for what is missing, not a regular file, or empty; StorageError where the disk fails.
    """
    name = os.fspath(path)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _cannot_open(name, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{name} is {_kind(status.st_mode)}, not a file", do="give the path of a regular file")
        if status.st_size == 0:
            raise FormatError(f"{name} is empty", do="copy or download the file again")
        yield RegularFile(name, status.st_size, descriptor)
    finally:
        os.close(descriptor)


def _cannot_open(name: str, error: OSError | ValueError) -> FormatError | StorageError:
    if isinstance(error, ValueError):
        return FormatError(f"{name!r} is not a path", facts=[str(error)])
    reason = error.strerror or str(error)
    if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE):
        return StorageError(f"cannot open {name}", facts=[reason])
    return FormatError(f"cannot open {name}: {reason}", do="check the path and its permissions")


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))
    return next((name for test, name in kinds if test(mode)), "not a regular file")
