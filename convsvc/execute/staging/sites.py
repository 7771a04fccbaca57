"""Where a target is made: beside it, or in it where it can be filled but not replaced.

A directory beside the target, on the same file system, takes its place in one step. A target that is a mount point (a container's
volume), or that lies in a directory in which we may not write, keeps its directory: it is made in a hidden directory inside.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from convsvc.errors import ConvsvcError, TargetError
from convsvc.execute.disk.faults import FULL, storage_error
from convsvc.execute.staging.folders import OPEN, OpenFolder, has_content, open_parent, shown
from convsvc.execute.staging.holders import Holder
from convsvc.execute.staging.locks import Lock, break_lock, take_lock
from convsvc.execute.staging.manifest import read_manifest
from convsvc.roots import Roots

# What our own directories and files in a target that is filled in place are called.
STAGING, ASIDE, ENDED, LOCK = ".convsvc-staging", ".convsvc-old", ".convsvc-ended", ".convsvc-lock"
# What an empty volume holds: ext4's own directory, and those in which storage shows its snapshots.
NOT_CONTENT = {STAGING, ASIDE, ENDED, LOCK, "lost+found", ".snapshot", ".zfs"}


@dataclass(slots=True)
class Site:
    """A target's place, locked. All paths begin at an open directory: the target's parent, or the target itself if `inside` is it.

    `staging` is where it is made, `aside` where an old target goes, `ended` where the staging directory's private files lie while
    it becomes the target.
    """

    target: Path
    parent: OpenFolder
    inside: OpenFolder | None
    lock: Lock | None = None

    @property
    def at(self) -> Path:
        """The target's name in its parent."""
        return self.parent.path / self.target.name

    @property
    def staging(self) -> Path:
        return self.at.with_name(f".{self.target.name}.convsvc") if self.inside is None else self.inside.path / STAGING

    @property
    def aside(self) -> Path:
        return self.at.with_name(f".{self.target.name}.convsvc-old") if self.inside is None else self.inside.path / ASIDE

    @property
    def ended(self) -> Path:
        return self.at.with_name(f".{self.target.name}.convsvc-ended") if self.inside is None else self.inside.path / ENDED

    @property
    def lock_path(self) -> Path:
        return self.staging.with_suffix(".convsvc-lock") if self.inside is None else self.inside.path / LOCK

    @property
    def folder(self) -> OpenFolder:
        """The open directory in which all that is hidden lies."""
        return self.inside or self.parent

    def has_content(self) -> bool:
        """Whether something is in the target that is not ours while we work, or the file system's. Raises OSError, TargetError."""
        return has_content(self.at, NOT_CONTENT if self.inside else ())

    def is_run(self, run: str) -> bool:
        """Whether what is at the target now is what this run has published."""
        return is_run(self.inside.path if self.inside else self.at, run)

    def kept(self) -> Path:
        """A free name for what nobody may remove."""
        folder = self.inside.path if self.inside else self.parent.path
        name = "convsvc-kept" if self.inside else f"{self.target.name}.convsvc-kept"
        number = 1
        while os.path.lexists(folder / f"{name}-{number}"):
            number += 1
        return folder / f"{name}-{number}"

    def check_held(self) -> None:
        """Raises Superseded unless the target is still ours. Asked just before whatever others would see."""
        if self.lock is not None:
            self.lock.check()

    def close(self) -> None:
        """Gives the lock back. May be called again."""
        if self.lock is not None:
            self.lock.release()
        if self.inside is not None:
            self.inside.close()
        self.parent.close()


def open_site(target: Path, roots: Roots, holder: Holder) -> Site:
    """The target's place, locked; directories above it are made. Raises TargetBusy, TargetError, PathRefused."""
    if not target.name:
        raise TargetError(f"{target} cannot be a target", do="give a directory in it")
    with target_errors(target):
        site = Site(target, open_parent(target, roots), None)
        try:
            site.inside = _open_inside(site.parent, target.name)
            site.lock = take_lock(site.lock_path, target, holder)
        except BaseException:
            site.close()
            raise
    return site


def look_at_site(target: Path, roots: Roots) -> Site:
    """The target's place as it is, not locked, for who only looks: the directory above it must be there. Raises OSError, PathRefused."""
    site = Site(target, OpenFolder(roots.open(str(target.parent), OPEN, "target.path")), None)
    try:
        site.inside = _open_inside(site.parent, target.name)
    except BaseException:
        site.close()
        raise
    return site


def take_from(target: Path, roots: Roots, holder: Holder) -> bool:
    """Takes the target's lock from a holder that hangs where nobody can end it; False if it has it no more.

    Raises TargetError where it cannot be taken, PathRefused.
    """
    target = Path(roots.check(str(target), "target.path", inside=True))
    with target_errors(target):
        site = Site(target, open_parent(target, roots), None)
        try:
            site.inside = _open_inside(site.parent, target.name)
            return break_lock(site.lock_path, holder)
        finally:
            site.close()


def staging_path(target: Path) -> Path:
    """Where the target is made: a hidden directory beside it on the same file system, or in it. Raises OSError."""
    if target.is_dir() and not target.is_symlink():
        parent = OpenFolder(os.open(target.parent, OPEN))
        try:
            inside = _open_inside(parent, target.name)
        finally:
            parent.close()
        if inside is not None:
            inside.close()
            return target / STAGING
    return target.with_name(f".{target.name}.convsvc")


def is_run(folder: Path, run: str) -> bool:
    """Whether a directory's manifest names the run."""
    manifest = read_manifest(folder) if os.path.isdir(folder) else None
    return manifest is not None and manifest.run == run


def _open_inside(parent: OpenFolder, name: str) -> OpenFolder | None:
    """The target's directory, if it is there and nothing beside it can take its place."""
    try:
        there = OpenFolder(os.open(name, OPEN | os.O_NOFOLLOW, dir_fd=parent.descriptor))
    except OSError:  # nothing, or no directory: whoever asks for its content says so
        return None
    if must_stay(parent, there):
        return there
    there.close()
    return None


def must_stay(parent: OpenFolder, there: OpenFolder) -> bool:
    """Whether a directory cannot be renamed: another file system (or the same) is mounted there, or its parent is not ours to change."""
    above, own = os.fstat(parent.descriptor), os.fstat(there.descriptor)
    if above.st_dev != own.st_dev or _mount_of(parent.descriptor) != _mount_of(there.descriptor):
        return True
    if not os.access(parent.path, os.W_OK | os.X_OK, effective_ids=True):
        return True
    # In a directory like /tmp only its owner renames what is his.
    is_ours = os.geteuid() in (0, own.st_uid, above.st_uid)
    return bool(above.st_mode & stat.S_ISVTX) and not is_ours


def _mount_of(descriptor: int) -> int:
    """Which mount an open directory lies in. Tells a bind mount from its surroundings, which have the same device."""
    found = re.search(r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


@contextmanager
def target_errors(target: Path) -> Iterator[None]:
    """Turns an operating system's error into a TargetError that names the target, or NoSpace, or StorageError."""
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise _unwritable(error, target) from error
    except OSError as error:
        if error.errno in FULL or error.filename is None:
            raise storage_error(error, shown(error.filename or target), "writing") from error
        raise _unwritable(error, target) from error


def _unwritable(error: OSError, target: Path) -> ConvsvcError:
    return TargetError(
        f"{target} cannot be written: {error.strerror}: {shown(str(error.filename))}",
        do="check the path and its permissions",
        details={"target": str(target), "path": shown(str(error.filename))},
    )
