"""How an iteration lies on storage: what is in its directory, and whether that is at rest. Looks, and changes nothing."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from convsvc.errors import SourceError, StorageError
from convsvc.roots import RootedPath
from convsvc.roots.rooted_path import FAILING

if TYPE_CHECKING:
    from convsvc.plan.plan import Plan

# moving: it has changed since the last look, or training has not finished it; incomplete: it is at rest, and cannot be read as a
# checkpoint; refused: the job was not taken, which is tried again; taken: a job has it.
SightingState = Literal["moving", "incomplete", "refused", "taken"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """An iteration as it was seen at a look; `signature` has been the same since `since`."""

    iteration: int
    state: SightingState
    signature: str
    since: datetime
    looked_at: datetime
    error: dict[str, Any] | None = None

    def rests(self, signature: str, now: datetime, rest_s: float) -> bool:
        """Whether an iteration with that signature now has been at rest for so long. Pure."""
        return signature == self.signature and now - self.since >= timedelta(seconds=rest_s)


def signature_of(folder: RootedPath) -> str:
    """A digest of every file's name, size and time in a directory; empty where there is no file, or no directory any more.

    Links are not followed. Raises SourceError, StorageError, PathRefused.
    """
    files = sorted(_files_in(folder))
    digest = hashlib.sha256()
    for name, size, modified_ns in files:
        digest.update(f"{name}\0{size}\0{modified_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest() if files else ""


def content_of(plan: Plan) -> str:
    """The identity of what a plan reads: every file's place, size, time and digest of headers. Files beside them do not count. Pure."""
    digests = plan.source_digests or ("",) * len(plan.source_files)
    digest = hashlib.sha256()
    for file, headers in zip(plan.source_files, digests, strict=True):
        digest.update(f"{file.path}\0{file.size_bytes}\0{file.mtime_ns}\0{headers}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files_in(folder: RootedPath) -> Iterator[tuple[str, int, int]]:
    try:
        descriptor = folder.open(os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _unreadable(folder, error) from error
    try:
        for top, _, names, at in os.fwalk(".", dir_fd=descriptor):
            for name in names:
                try:
                    status = os.stat(name, dir_fd=at, follow_symlinks=False)
                except FileNotFoundError:  # renamed meanwhile: another look will see it
                    yield os.path.join(top, name), -1, -1
                    continue
                if not stat.S_ISSOCK(status.st_mode):
                    yield os.path.join(top, name), status.st_size, status.st_mtime_ns
    except OSError as error:
        raise _unreadable(folder, error) from error
    finally:
        os.close(descriptor)


def _unreadable(folder: RootedPath, error: OSError) -> SourceError | StorageError:
    reason = error.strerror or str(error)
    if error.errno in FAILING:
        return StorageError(f"cannot look into {folder}", facts=[reason])
    return SourceError(f"cannot look into {folder}: {reason}", do="check its permissions")
