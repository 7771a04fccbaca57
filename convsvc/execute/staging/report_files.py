"""Where the report of a conversion, its card and its picture lie: beside the target, under the target's name, and in it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from convsvc.dialects.output import CARD, PICTURE, REPORT
from convsvc.errors import PathRefused, TargetExists
from convsvc.execute.staging.card import is_card
from convsvc.execute.staging.marks import CARD_COPY, PICTURE_COPY, REPORT_COPY
from convsvc.execute.staging.report import is_report
from convsvc.execute.staging.sites import Site
from convsvc.notes import Note
from convsvc.pictures.page import is_page
from convsvc.roots import Roots

# What lies beside a target: its name, where it waits among the private files, and by which beginning it is known again.
_BESIDE: dict[str, tuple[str, Callable[[bytes], bool]]] = {
    REPORT: (REPORT_COPY, is_report),
    CARD: (CARD_COPY, is_card),
    PICTURE: (PICTURE_COPY, is_page),
}
_HEAD_BYTES = 64
_MODE = 0o644


def beside(target: Path, name: str = REPORT) -> Path:
    """Where the report, its card or its picture lies beside a target.

    >>> beside(Path("/out/llama"))
    PosixPath('/out/llama.conversion-report.json')
    """
    return target.with_name(f"{target.name}.{name}")


def has_place_beside(site: Site) -> bool:
    """Whether we may write beside the target: not where a volume is mounted in a directory that is not ours."""
    return os.access(site.parent.path, os.W_OK | os.X_OK, effective_ids=True)


def check_place(site: Site) -> None:
    """Raises TargetExists where something else has the name of a report, a card or a picture beside the target."""
    for name in _BESIDE:
        _check_place(site, name)


def put_beside(site: Site, private: Path) -> list[Note]:
    """Puts report, card and picture, which lie in the directory of private files, beside the target, in place of older ones.

    Those of a target that is no more do not stay. What stops it is a note: the target is whole.
    """
    copies = {name: private / PurePosixPath(copy).name for name, (copy, _) in _BESIDE.items()}
    notes = [note for name, copy in copies.items() if copy.exists() for note in _put(site, name, copy.read_bytes())]
    for name in copies if copies[REPORT].exists() else ():
        if not copies[name].exists():
            _remove(site, name)
    return notes


def remove_beside(site: Site) -> None:
    """Removes the report, the card and the picture that lie beside a target. What is none of them stays, whatever it is called."""
    for name in _BESIDE:
        _remove(site, name)


def _remove(site: Site, name: str) -> None:
    path = beside(site.at, name)
    if _is_one(path, _BESIDE[name][1]):
        with suppress(OSError):
            os.unlink(path)


def _check_place(site: Site, name: str) -> None:
    path = beside(site.at, name)
    if os.path.lexists(path) and not _is_one(path, _BESIDE[name][1]):
        place = str(beside(site.target, name))
        raise TargetExists(
            f"{place} is no report of a conversion, but bears the name of one",
            do="move it away, or choose another target",
            details={"path": place},
        )


def _put(site: Site, name: str, data: bytes) -> list[Note]:
    path, temporary = beside(site.at, name), site.at.with_name(f".{site.target.name}.convsvc-report")
    try:
        _check_place(site, name)
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, _MODE), "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, TargetExists) as error:
        with suppress(OSError):
            os.unlink(temporary)
        return [Note("advice", f"the report could not be put beside the target: {error}")]
    return []


def read_report(target: Path, roots: Roots) -> tuple[str, dict[str, Any]]:
    """Where a target's report lies, and the report; ("", {}) where there is none that can be read."""
    for path in (beside(target), target / REPORT):
        with suppress(OSError, ValueError, PathRefused):
            with open(roots.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                report = json.loads(file.read())
            if isinstance(report, dict):
                return str(path), report
    return "", {}


def _is_one(path: Path, is_known: Callable[[bytes], bool]) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and is_known(file.read(_HEAD_BYTES) or b"")
    except OSError:
        return False
