"""Directories held open, so that what is renamed or swapped for a link on the way to them does not matter any more.

The directory in which a target appears may be its user's, who can rename and replace what is in it at any time. So it is opened once,
beneath the roots, and everything is done on paths that begin at its descriptor (/proc/self/fd/N/name); what lies at such a name must be
a real directory, and where it is to be private, one that this service has made.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from convsvc.errors import TargetError
from convsvc.roots import Roots
from convsvc.roots.beneath import real_path

OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
DIRECTORY_MODE = 0o755
# Between tries to remove a directory in which somebody is still at work.
REMOVE_PAUSES_S = (0.0, 0.1, 0.3, 1.0, 3.0, 5.0)


class OpenFolder:
    """A directory held open. `path` leads to it through its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.path = Path(f"/proc/self/fd/{descriptor}")

    def close(self) -> None:
        """May be called again. After it `path` leads nowhere: the number may soon be another file's."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor, self.path = -1, Path("/proc/self/fd/closed")


def open_parent(target: Path, roots: Roots) -> OpenFolder:
    """The directory in which the target appears, made with those above it where they are not there. Raises OSError, PathRefused."""
    return OpenFolder(_made(str(target.parent), roots))


def _made(path: str, roots: Roots) -> int:
    try:
        return roots.open(path, OPEN, "target.path")
    except FileNotFoundError:
        above = _made(os.path.dirname(path), roots)
    try:
        with suppress(FileExistsError):
            os.mkdir(os.path.basename(path), DIRECTORY_MODE, dir_fd=above)
        return os.open(os.path.basename(path), OPEN | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)


def make_private(path: Path) -> OpenFolder:
    """The directory at `path`, made for its owner alone if it is not there. Raises OSError, TargetError if it is somebody else's."""
    with suppress(FileExistsError):
        path.mkdir(0o700)
    folder = open_private(path)
    os.fchmod(folder.descriptor, 0o700)
    return folder


def open_private(path: Path) -> OpenFolder:
    """The directory at `path`, which this service must have made. Raises OSError, TargetError if it is a link or somebody else's."""
    if not is_directory(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    folder = OpenFolder(os.open(path, OPEN | os.O_NOFOLLOW))
    owner = os.fstat(folder.descriptor).st_uid
    if owner != os.geteuid() and owner != owner_of_new(folder.path):
        folder.close()
        raise TargetError(f"{shown(path)} is user {owner}'s", do="remove it, or choose another target", details={"path": shown(path)})
    return folder


def owner_of_new(directory: Path) -> int | None:
    """The user that what we make in a directory belongs to: another where a mount says so (root_squash, CIFS). None if we cannot."""
    probe = directory / f".convsvc-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
        os.unlink(probe)


def is_directory(path: Path) -> bool:
    """Whether a directory is there. Raises TargetError for anything else that is there, also for a link to one: somebody put it there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        return True
    what = "a link" if stat.S_ISLNK(mode) else "not a directory"
    raise TargetError(f"{shown(path)} is {what}", do="remove it, or choose another target", details={"path": shown(path)})


def has_content(path: Path, but: Collection[str] = ()) -> bool:
    """Whether there is a directory with something in it, other than these names. Raises OSError, TargetError as `is_directory`."""
    if not is_directory(path):
        return False
    folder = OpenFolder(os.open(path, OPEN | os.O_NOFOLLOW))
    try:
        return not set(os.listdir(folder.descriptor)).issubset(but)
    finally:
        folder.close()


def remove(path: Path) -> None:
    """Removes a directory with all that is in it; links in it are removed, not followed. Raises OSError, TargetError."""
    tries = 0
    while is_directory(path):
        try:
            shutil.rmtree(path)
        except OSError as error:
            # A late worker may make or remove a temporary file meanwhile, or hold one open, which NFS keeps under another name until it is
            # closed: within seconds the worker has noticed.
            tries += 1
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT, errno.EBUSY} or tries > len(REMOVE_PAUSES_S):
                raise
            time.sleep(REMOVE_PAUSES_S[tries - 1])


def remove_private(path: Path) -> None:
    """Removes a directory that this service has made, if it is there. Raises OSError, TargetError if it is a link or somebody else's."""
    if is_directory(path):
        open_private(path).close()
        remove(path)


def shown(path: str | os.PathLike[str]) -> str:
    """A path as people know it: what it says for a descriptor is where that lies."""
    text = os.fspath(path)
    found = re.match(r"/proc/self/fd/(\d+)", text)
    if found is None:
        return text
    try:
        return real_path(int(found[1])) + text[found.end() :]
    except OSError:
        return text
