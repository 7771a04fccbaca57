"""Publishing: the staging directory becomes the target, and what an earlier run has left half done is undone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convsvc.errors import ConvsvcError, TargetError
from convsvc.execute.faults import FULL, storage_error
from convsvc.execute.folders import OpenFolder, has_content, is_directory, open_parent, open_private, remove, remove_private, shown
from convsvc.execute.holders import Holder, this_process
from convsvc.execute.locks import Lock, take_lock
from convsvc.execute.marks import FENCE, PRIVATE
from convsvc.roots import ANYWHERE, Roots


def staging_path(target: Path) -> Path:
    """Where the target is made: a hidden directory beside it, on the same file system."""
    return target.with_name(f".{target.name}.convsvc")


def swap_in(target: Path, inside: OpenFolder) -> None:
    """Renames the staging directory, which is held open, to the target's name; what was there goes."""
    staging, aside = staging_path(target), aside_path(target)
    if not os.path.samestat(os.lstat(staging), os.fstat(inside.descriptor)):
        raise TargetError(f"{shown(staging)} was replaced while the target was made in it", details={"path": shown(staging)})
    if has_content(target):
        os.rename(target, aside)
    os.rename(staging, target)
    remove(aside)


def tidy_published(target: Path, roots: Roots = ANYWHERE) -> None:
    """Removes what a crash just after the target was moved into place has left beside it. Raises TargetBusy, TargetError, PathRefused."""
    with _left_behind(target, roots) as at:
        undo_half_publishing(at)


def discard_left(target: Path, roots: Roots = ANYWHERE) -> None:
    """Removes the staging directory that an earlier run has left, if any; the target stays as it is.

    Raises TargetBusy, TargetError, PathRefused.
    """
    with _left_behind(target, roots) as at:
        undo_half_publishing(at)
        if is_directory(staging_path(at)):
            (staging_path(at) / FENCE).unlink(missing_ok=True)
        remove_private(staging_path(at))


@contextmanager
def _left_behind(target: Path, roots: Roots) -> Iterator[Path]:
    """The target's name in its open parent, locked."""
    parent, lock = lock_target(Path(roots.check(str(target), "target.path", inside=True)), roots, this_process())
    try:
        with target_errors(target):
            yield parent.path / target.name
    finally:
        lock.release()
        parent.close()


def lock_target(target: Path, roots: Roots, holder: Holder) -> tuple[OpenFolder, Lock]:
    """The target's parent directory, open, and the lock in it. Raises TargetBusy, TargetError, PathRefused."""
    with target_errors(target):
        parent = open_parent(target, roots)
        try:
            return parent, take_lock(_lock_path(parent.path / target.name), target, holder)
        except BaseException:
            parent.close()
            raise


def _lock_path(target: Path) -> Path:
    return staging_path(target).with_suffix(".convsvc-lock")


def aside_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.convsvc-old")


def ended_path(target: Path) -> Path:
    """Where the private files of a staging directory lie while it becomes the target."""
    return target.with_name(f".{target.name}.convsvc-ended")


def undo_half_publishing(target: Path) -> None:
    """After a crash in `publish`: what was taken out of the staging directory comes back, or goes if the directory is the target."""
    _undo_half_swap(target)
    ended, staging = ended_path(target), staging_path(target)
    if is_directory(ended) and is_directory(staging):
        open_private(ended).close()  # nobody else's word counts on what is done
        left = open_private(staging)
        try:
            if not (left.path / PRIVATE).exists():
                os.rename(ended, left.path / PRIVATE)
        finally:
            left.close()
    remove_private(ended)


def _undo_half_swap(target: Path) -> None:
    """After a crash between the two renames of an overwrite: the old target comes back, or goes if the new one is there."""
    aside = aside_path(target)
    if is_directory(aside):
        if is_directory(target):
            remove(aside)
        else:
            os.rename(aside, target)


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
