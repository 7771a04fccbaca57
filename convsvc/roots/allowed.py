"""The directories that a job must stay in."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convsvc.errors import PathRefused
from convsvc.roots.beneath import is_within, open_beneath

# How often a path is looked up anew whose links are changed while it is opened.
TRIES = 8


@dataclass(frozen=True, slots=True)
class Roots:
    """Absolute directories; what a job reads and writes lies in them. None at all: no restriction, as for the CLI on one's own machine.

    The roots themselves, and the directories above them, are the administrator's and are trusted; what is in them is not. A symbolic
    link may lead from one root into another. Hard links and mounts cannot be told from ordinary files and are not.

    >>> Roots(("/data",)).check("/data/../etc/passwd", "source.path")
    Traceback (most recent call last):
    convsvc.errors.PathRefused: source.path has a '..' in it: /data/../etc/passwd
      do: give the path without '..'
    """

    paths: tuple[str, ...] = ()

    def check(self, path: str, what: str = "the path", *, inside: bool = False) -> str:
        """The path with all symbolic links resolved; what does not exist yet is judged by the part that does.

        `inside`: it may not be a root itself (a target, as its staging directory lies beside it). With no restriction the path may
        also be relative. Raises PathRefused; `what` names the path there.
        """
        _check_spelling(path, what, is_restricted=bool(self.paths))
        resolved = _real(path)
        if self.paths and not any(is_within(resolved, root) and not (inside and resolved == root) for root in map(_real, self.paths)):
            raise _refused(path, what, self.paths, inside)
        return resolved

    def open(self, path: str, flags: int, what: str = "the path") -> int:
        """A descriptor of what lies at `path`, surely in a root, even if somebody swaps directories for links meanwhile.

        `flags` as for os.open; nothing is created. Raises OSError, PathRefused.
        """
        _check_spelling(path, what, is_restricted=bool(self.paths))
        if not self.paths:
            return os.open(path, flags | os.O_CLOEXEC)
        for root, inside in self._ways_to(path, what):
            try:
                return _open_in(root, inside, flags)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        raise PathRefused(f"{what} is changed while it is opened: {path}", details={"path": path})

    def as_json(self) -> list[str]:
        return list(self.paths)

    @classmethod
    def from_json(cls, data: Sequence[str]) -> Roots:
        """Raises TypeError for anything but a list of strings: no restriction is never a default."""
        if not isinstance(data, list | tuple) or not all(isinstance(each, str) for each in data):
            raise TypeError(f"roots must be a list of paths, not {data!r}")
        return cls(tuple(data))

    def _ways_to(self, path: str, what: str) -> Iterator[tuple[str, str]]:
        """(root, relative path): as the path is written, then as it is resolved, again for as long as it changes."""
        written = _one_slash(path)
        yield from ((root, _relative(written, root)) for root in self.paths if is_within(written, root.rstrip("/") or "/"))
        for _ in range(TRIES):
            resolved = self.check(path, what)
            yield from ((root, _relative(resolved, root)) for root in map(_real, self.paths) if is_within(resolved, root))


ANYWHERE = Roots()


def _open_in(root: str, inside: str, flags: int) -> int:
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(top, inside, flags)
    finally:
        os.close(top)


def _relative(path: str, root: str) -> str:
    return path[len(root.rstrip("/")) :].strip("/") or "."


def _check_spelling(path: str, what: str, *, is_restricted: bool) -> None:
    if "\0" in path or not _can_be_encoded(path):
        raise PathRefused(f"{what} is not a path that can exist: {path!r}")
    if not is_restricted:
        return
    if not path.startswith("/"):
        raise PathRefused(f"{what} is not absolute: {path}", do="give the whole path, beginning with /")
    if ".." in path.split("/"):
        raise PathRefused(f"{what} has a '..' in it: {path}", do="give the path without '..'")


def _can_be_encoded(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # JSON can hold half a character
        return False
    return True


def _real(path: str) -> str:
    return _one_slash(os.path.realpath(path))


def _one_slash(path: str) -> str:
    # POSIX lets "//x" mean something of its own; on Linux it does not.
    return "/" + path.lstrip("/") if path.startswith("//") else path


def _refused(path: str, what: str, roots: tuple[str, ...], inside: bool) -> PathRefused:
    # Where links lead is not told: that would show what lies outside.
    return PathRefused(
        f"{what} is not in an allowed directory: {path}",
        facts=["links are resolved before this is judged", *([f"a target lies in one of them, not {path} itself"] if inside else [])],
        do=f"use a path in {', '.join(roots)}",
        details={"path": path, "roots": list(roots)},
    )
