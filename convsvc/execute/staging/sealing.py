"""What a staged target gets besides its tensors' bytes: skeletons before, checksums and side files after."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import chain
from pathlib import Path, PurePosixPath

from convsvc.dialects.output import hashes_text
from convsvc.errors import SourceChanged
from convsvc.execute.check.digests import whole_file
from convsvc.execute.check.hashing import hash_file
from convsvc.execute.staging.folders import DIRECTORY_MODE
from convsvc.formats import FORMATS
from convsvc.plan.plan import Plan, SideFile
from convsvc.roots import Roots
from convsvc.roots.beneath import parent_beneath

FILE_MODE = 0o644


def make_files(plan: Plan, root: Path, check: Callable[[], object] = lambda: None) -> None:
    """Makes every target file in its final size, with what is known of it now; tensors that are there stay. Raises OSError."""
    for file, skeleton in plan.new_files():
        check()
        with open(_made(root, file.path, os.O_RDWR), "r+b", buffering=0) as opened:
            os.ftruncate(opened.fileno(), file.size_bytes)
            _write_segments(opened.fileno(), skeleton.segments)


def seal_files(plan: Plan, root: Path, crcs: Mapping[int, int], check: Callable[[], object] = lambda: None) -> list[int]:
    """Adds what depends on the tensors' content, and syncs. `crcs`: by the plan's tensor number. Answers each file's. Raises OSError."""
    by_file: dict[int, dict[str, int]] = {}
    file_crcs = []
    for number, tensor in enumerate(plan.target_tensors):
        by_file.setdefault(tensor.file, {})[tensor.name] = crcs[number]
    for number, (file, skeleton) in enumerate(plan.new_files()):
        check()
        tensors = by_file.get(number, {})
        with open(_opened(root, file.path, os.O_RDWR), "r+b", buffering=0) as opened:
            segments = FORMATS[file.format].seal(skeleton, tensors)
            _write_segments(opened.fileno(), segments)
            os.fsync(opened.fileno())
        file_crcs.append(whole_file(skeleton, segments, tensors))
    return file_crcs


def write_text(root: Path, name: str, data: bytes) -> None:
    """A small file of the staged target, at its top, or again. Raises OSError."""
    with open(_made(root, name, os.O_WRONLY | os.O_TRUNC), "wb", buffering=0) as opened:
        _write_segments(opened.fileno(), [(0, data)])
        os.fsync(opened.fileno())


def write_side_files(plan: Plan, root: Path, *, last: bool, hashes: Mapping[str, str] | None = None) -> None:
    """Writes the side files that come last, or all others; `hashes` are those of the files that tasks hashed, by their paths.

    Raises OSError, SourceChanged where a file to copy is gone.
    """
    for side in plan.side_files:
        if side.last != last:
            continue
        if side.hashes_of is None:
            _write_side_file(side, root, plan.roots)
        else:
            write_text(root, side.path, _hashes_text(plan, side.hashes_of, root, hashes or {}))


def _hashes_text(plan: Plan, folder: str, root: Path, hashes: Mapping[str, str]) -> bytes:
    found = {}
    for path, data in files_in(plan, folder):
        if data is not None:
            hexed: str | None = hashlib.sha256(data).hexdigest()
        else:
            hexed = hashes.get(path)
        if hexed is None:  # a file that is copied, or that was written by several tasks
            with open(_opened(root, path, os.O_RDONLY), "rb", buffering=0) as opened:
                hexed = hash_file(opened.fileno())
        found[PurePosixPath(path).name] = hexed
    return hashes_text(found)


def files_in(plan: Plan, folder: str) -> Iterator[tuple[str, bytes | None]]:
    """Every file of the target in a folder that a side file says the hashes of, and what it holds where the plan says that."""
    files: Iterable[tuple[str, bytes | None]] = chain(
        ((file.path, None) for file in plan.target_files),
        ((side.path, None if side.copy_from else side.data) for side in plan.side_files if side.hashes_of is None),
    )
    return ((path, data) for path, data in files if str(PurePosixPath(path).parent) == folder)


def open_up(root: Path, like: os.stat_result | None) -> None:
    """Gives the staged directory, private until now, the mode and owners of the one whose place it takes, or those of any new one."""
    os.chmod(root, DIRECTORY_MODE & ~_umask() if like is None else stat.S_IMODE(like.st_mode))
    if like is not None:
        with suppress(OSError):  # only root gives away what is his
            os.chown(root, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)
            os.chmod(root, stat.S_IMODE(like.st_mode))  # chown takes the set-group-id bit away


def sync_directories(root: Path) -> None:
    """Puts the names of all files on stable storage."""
    for directory, _, _ in os.walk(root):
        sync_directory(Path(directory))


def sync_directory(path: Path) -> None:
    """Puts the names in one directory on stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_segments(descriptor: int, segments: Iterable[tuple[int, bytes]]) -> None:
    for file_offset, data in segments:
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, memoryview(data)[done:], file_offset + done)


def _write_side_file(side: SideFile, root: Path, roots: Roots) -> None:
    with open(_made(root, side.path, os.O_WRONLY | os.O_TRUNC), "wb", buffering=0) as opened:
        if side.copy_from is None:
            opened.write(side.data)
        else:
            _copy_content(side.copy_from, opened, roots)
        os.fsync(opened.fileno())


def _made(root: Path, name: str, flags: int) -> int:
    """A file of the staged target, made with the directories above it if it is not there. Never what a link leads to."""
    for above in reversed(Path(name).parents[:-1]):
        with suppress(FileExistsError), _parent(root, str(above)) as (parent, part):
            os.mkdir(part, DIRECTORY_MODE, dir_fd=parent)
    return _opened(root, name, flags | os.O_CREAT)


def _opened(root: Path, name: str, flags: int) -> int:
    with _parent(root, name) as (parent, file):
        return os.open(file, flags | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE, dir_fd=parent)


@contextmanager
def _parent(root: Path, name: str) -> Iterator[tuple[int, str]]:
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with parent_beneath(directory, name) as found:
            yield found
    finally:
        os.close(directory)


def _copy_content(source: str, target: FileIO, roots: Roots) -> None:
    try:
        with open(roots.open(source, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as taken:
            if not stat.S_ISREG(os.fstat(taken.fileno()).st_mode):
                raise SourceChanged(f"{source} is no file any more", details={"path": source})
            shutil.copyfileobj(taken, target)
    except FileNotFoundError:
        raise SourceChanged(f"{source} is gone since it was planned", details={"path": source}) from None


def _umask() -> int:
    # There is no way to ask for it without setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
