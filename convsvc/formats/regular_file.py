"""Opening a checkpoint's file for its headers: regular files only, positioned reads, no read past the end goes unnoticed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from convsvc.errors import FormatError, StorageError
from convsvc.roots import RootedPath
from convsvc.roots.rooted_path import FAILING

AnyPath = str | os.PathLike[str] | RootedPath


class Readable(Protocol):
    """What headers are read from: a file, or the part of one that is a file by itself. `path` is for errors, offsets are its own."""

    @property
    def path(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    def read(self, file_offset: int, size_bytes: int, what: str) -> bytes:
        """Exactly so many bytes. Raises FormatError where it ends before, StorageError where the disk fails."""


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
        if not size_bytes:
            return b""
        first = self._read_some(file_offset, size_bytes, what)
        if len(first) == size_bytes:  # nearly always
            return first
        parts = [first]
        done = len(first)
        while done < size_bytes:
            parts.append(self._read_some(file_offset + done, size_bytes - done, what))
            done += len(parts[-1])
        return b"".join(parts)

    def _read_some(self, file_offset: int, size_bytes: int, what: str) -> bytes:
        try:
            data = os.pread(self.descriptor, size_bytes, file_offset)
        except OSError as error:
            raise StorageError(f"cannot read {self.path}", facts=[f"{what}: {error.strerror}"]) from error
        if not data:
            raise FormatError(f"{self.path} became shorter while it was read", facts=[f"{what} is missing"])
        return data


@contextmanager
def open_regular(path: AnyPath, *, may_be_empty: bool = False) -> Iterator[RegularFile]:
    """Open a regular file; symbolic links are followed (hub caches are made of them) while they stay in the roots.

    O_NONBLOCK, so that opening a FIFO does not wait for a writer; what is opened is judged by the descriptor, not by the path.
    Raises FormatError for what is missing, not a regular file, or empty; StorageError where the disk fails; PathRefused.
    """
    rooted = path if isinstance(path, RootedPath) else RootedPath(os.fspath(path))
    name = rooted.path
    try:
        descriptor = rooted.open(os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise _cannot_open(name, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{name} is {_kind(status.st_mode)}, not a file", do="give the path of a regular file")
        if status.st_size == 0 and not may_be_empty:
            raise FormatError(f"{name} is empty", do="copy or download the file again")
        yield RegularFile(name, status.st_size, descriptor)
    finally:
        os.close(descriptor)


def _cannot_open(name: str, error: OSError) -> FormatError | StorageError:
    reason = error.strerror or str(error)
    if error.errno in FAILING:
        return StorageError(f"cannot open {name}", facts=[reason])
    return FormatError(f"cannot open {name}: {reason}", do="check the path and its permissions")


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))
    return next((name for test, name in kinds if test(mode)), "not a regular file")
