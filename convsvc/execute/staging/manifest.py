"""The manifest of a target: a small hidden file that lists what was made there, so that nothing else is ever removed.

    {"convsvc":"0.1.0","run":"5f0c...","plan":"<fingerprint>","files":{"model.safetensors":[1234,null],"config.json":[2,99]},"crc32":"..."}

A file has its size, and where it is no tensors' (they have digests of their own in the report) its CRC-32; the last field is that of all
before it. `run` tells this directory from any other that the same plan may have made. What a manifest says is never where to go, only what
may be removed of what is there.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convsvc.dialects.output import MANIFEST
from convsvc.execute.staging.folders import OPEN, OpenFolder, is_directory
from convsvc.formats.zip.crc import crc32

# A thousand files take some 100 KB.
MOST_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was made by a run: each file's size in bytes, and its CRC-32 where it is known."""

    run: str
    version: str
    plan: str
    files: Mapping[str, tuple[int, int | None]]

    def dump(self) -> str:
        data = {"convsvc": self.version, "run": self.run, "plan": self.plan, "files": {name: list(f) for name, f in self.files.items()}}
        text = json.dumps(data, separators=(",", ":"))
        return f'{text[:-1]},"crc32":"{crc32(text.encode()):08x}"}}\n'


def load_manifest(text: bytes) -> Manifest | None:
    """The manifest that `Manifest.dump` wrote; None for anything else, also if but a bit of it was changed. Pure."""
    try:
        data = json.loads(text)
        files = {str(name): (int(size), None if crc is None else int(crc)) for name, (size, crc) in data["files"].items()}
        manifest = Manifest(str(data["run"]), str(data["convsvc"]), str(data["plan"]), files)
        return manifest if manifest.dump().encode() == text else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a directory; None where there is none that can be read."""
    try:
        descriptor = os.open(folder / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return load_manifest(file.read(MOST_BYTES))


def file_crc(path: Path) -> int:
    """CRC-32 of a file's bytes. Raises OSError; a link is not followed."""
    crc = 0
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = crc32(chunk, crc)
    return crc


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a directory, by relative path: regular files with their sizes, directories, and whatever else (links, devices)."""

    files: Mapping[str, int]
    folders: frozenset[str]
    others: frozenset[str]


def list_contents(folder: Path, but: Collection[str] = ()) -> Contents:
    """Everything in a directory at any depth, but for these names at its top. Links are not followed. Raises OSError."""
    files: dict[str, int] = {}
    folders, others = set[str](), set[str]()
    for path, status in _walk(folder, but):
        if stat.S_ISREG(status.st_mode):
            files[path] = status.st_size
        else:
            (folders if stat.S_ISDIR(status.st_mode) else others).add(path)
    return Contents(files, frozenset(folders), frozenset(others))


def find_foreign(found: Contents, made: Mapping[str, int | None]) -> list[str]:
    """What of a directory's contents was not made: not in `made` (path: size in bytes, None for any), or of another size. Pure.

    In words, what belongs together as one.

    >>> find_foreign(Contents({"a": 1, "logs/x": 5, "logs/y": 5}, frozenset({"logs"}), frozenset()), {"a": 2})
    ['a: has 1 bytes, 2 were written', 'logs/ (2 files)']
    """
    above = above_of(made)
    changed = [
        f"{path}: has {size} bytes, {made[path]} were written"
        for path, size in sorted(found.files.items())
        if made.get(path) is not None and made[path] != size
    ]
    foreign = sorted({*(path for path in found.files if path not in made), *found.others, *(found.folders - above)})
    tops: dict[str, int] = {}
    for path in foreign:
        top = _topmost(path, above)
        tops[top] = tops.get(top, 0) + (path not in found.folders)
    return changed + [_shown(top, count, found) for top, count in tops.items()]


def above_of(paths: Iterable[str]) -> frozenset[str]:
    """The directories in which relative paths lie. Pure."""
    return frozenset(str(above) for path in paths for above in PurePosixPath(path).parents if str(above) != ".")


def find_changed(folder: Path, manifest: Manifest) -> list[str]:
    """The files whose content is not what the manifest says, where it says a CRC-32; those that are gone do not count. Raises OSError."""
    changed = []
    for path, (_, crc) in sorted(manifest.files.items()):
        with suppress(FileNotFoundError):
            if crc is not None and file_crc(folder / path) != crc:
                changed.append(f"{path}: its content was changed since it was written")
    return changed


def shorten(lines: Sequence[str]) -> list[str]:
    return list(lines[:_SHOWN]) + ([f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])


def remove_listed(folder: Path, paths: Collection[str]) -> bool:
    """Removes these files from a directory, the directories in which they lay, and the directory itself where nothing else is in it.

    Says whether all is gone. Links are not followed. Raises OSError, TargetError where `folder` is no directory.
    """
    if not is_directory(folder):
        return True
    names, above = set(paths), above_of(paths)
    opened = OpenFolder(os.open(folder, OPEN | os.O_NOFOLLOW))
    try:
        for top, folders, files, at in os.fwalk(".", topdown=False, onerror=_fail, dir_fd=opened.descriptor):
            inside = os.path.relpath(top, ".")
            for name in files:
                if os.path.normpath(os.path.join(inside, name)) in names:
                    os.unlink(name, dir_fd=at)
            for name in folders:
                if os.path.normpath(os.path.join(inside, name)) in above:
                    with suppress(OSError):  # something else lies in it
                        os.rmdir(name, dir_fd=at)
        if os.listdir(opened.descriptor):
            return False
    finally:
        opened.close()
    os.rmdir(folder)
    return True


def _walk(folder: Path, but: Collection[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below a directory, by its path in it."""
    opened = OpenFolder(os.open(folder, OPEN))
    try:
        for top, folders, files, at in os.fwalk(".", onerror=_fail, dir_fd=opened.descriptor):
            left_out = but if top == "." else ()
            folders[:] = [name for name in folders if name not in left_out]
            for name in (*folders, *(name for name in files if name not in left_out)):
                yield os.path.normpath(os.path.join(top, name)), os.stat(name, dir_fd=at, follow_symlinks=False)
    finally:
        opened.close()


def _fail(error: OSError) -> None:
    raise error


def _topmost(path: str, above: Collection[str]) -> str:
    """The highest directory of a path in which nothing that was made lies, or the path."""
    for folder in reversed(PurePosixPath(path).parents[:-1]):
        if str(folder) not in above:
            return str(folder)
    return path


def _shown(top: str, count: int, found: Contents) -> str:
    if top in found.folders:
        return f"{top}/ ({count} file{'' if count == 1 else 's'})"
    return f"{top} (a link or a device)" if top in found.others else top
