"""Where the report of a conversion lies: beside the target, under the target's name, and in it."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from convsvc.dialects.base import REPORT
from convsvc.errors import PathRefused, TargetExists
from convsvc.execute.staging.report import is_report
from convsvc.execute.staging.sites import Site
from convsvc.notes import Note
from convsvc.roots import Roots

_HEAD_BYTES = 64
_MODE = 0o644


def beside(target: Path) -> Path:
    """The report's name beside a target.

    >>> beside(Path("/out/llama"))
    PosixPath('/out/llama.conversion-report.json')
    """
    return target.with_name(f"{target.name}.{REPORT}")


def has_place_beside(site: Site) -> bool:
    """Whether we may write beside the target: not where a volume is mounted in a directory that is not ours."""
    return os.access(site.parent.path, os.W_OK | os.X_OK, effective_ids=True)


def check_place(site: Site) -> None:
    """Raises TargetExists where something that is no report has the report's name beside the target."""
    path = beside(site.at)
    if os.path.lexists(path) and not _is_report(path):
        place = str(beside(site.target))
        raise TargetExists(
            f"{place} is no report of a conversion, but bears the name of one",
            do="move it away, or choose another target",
            details={"path": place},
        )


def put_report(site: Site, source: Path) -> list[Note]:
    """Puts the report that lies at `source` beside the target, in place of an older one. What stops it is a note: the target is whole."""
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        return []
    path, temporary = beside(site.at), site.at.with_name(f".{site.target.name}.convsvc-report")
    try:
        check_place(site)
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


def _is_report(path: Path) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and is_report(file.read(_HEAD_BYTES) or b"")
    except OSError:
        return False
