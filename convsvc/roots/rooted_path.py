"""A path that is looked at and opened beneath the roots only."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from convsvc.errors import SourceError, StorageError
from convsvc.roots.allowed import ANYWHERE, Roots
from convsvc.roots.beneath import real_path

NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# Trying again may help.
FAILING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class RootedPath:
    """A source's path with the roots it must lie in: whoever is handed one cannot look elsewhere by mistake.

    It is no os.PathLike on purpose, so that `open(path)` does not work. Every method raises PathRefused where the path leads out of
    the roots, StorageError where the disk fails, SourceError where the operating system refuses.
    """

    path: str
    roots: Roots = ANYWHERE

    def __str__(self) -> str:
        return self.path

    def __truediv__(self, name: str) -> RootedPath:
        return RootedPath(os.path.join(self.path, name), self.roots)

    @property
    def name(self) -> str:
        return os.path.basename(self.path.rstrip("/"))

    def open(self, flags: int) -> int:
        """A descriptor. Raises OSError, PathRefused."""
        return self.roots.open(self.path, flags)

    def look(self) -> tuple[str, os.stat_result] | None:
        """Where it lies once links are followed, and its status; None if nothing is there."""
        try:
            descriptor = self.open(os.O_PATH)
        except OSError as error:
            if error.errno in NOTHING_THERE:
                return None
            raise self._unreadable(error) from error
        try:
            return real_path(descriptor), os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def exists(self) -> bool:
        return self.look() is not None

    def is_file(self) -> bool:
        found = self.look()
        return found is not None and stat.S_ISREG(found[1].st_mode)

    def is_dir(self) -> bool:
        found = self.look()
        return found is not None and stat.S_ISDIR(found[1].st_mode)

    def names(self) -> list[str]:
        """What a directory holds, sorted."""
        try:
            descriptor = self.open(os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            return sorted(os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def _unreadable(self, error: OSError) -> SourceError | StorageError:
        reason = error.strerror or str(error)
        if error.errno in FAILING:
            return StorageError(f"cannot open {self.path}", facts=[reason])
        return SourceError(f"cannot open {self.path}: {reason}", do="check the path and its permissions")
