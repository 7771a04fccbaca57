"""Whether a target fits its file system, asked before the first byte is written."""

from __future__ import annotations

import os
from pathlib import Path

from convsvc.errors import NoSpace
from convsvc.plan.plan import Plan

# For directories, task files and marks.
RESERVE_BYTES = 4 << 20


def check_room(plan: Plan, staging: Path, parent: Path) -> None:
    """Raises NoSpace where the free space under `parent` is less than what `staging` still lacks."""
    needed = sum(_missing(staging / file.path, file.size_bytes) for file in plan.target_files) + RESERVE_BYTES
    status = os.statvfs(parent)
    available = status.f_bavail * status.f_frsize
    if needed > available:
        raise NoSpace(
            f"{parent} has {available} bytes free, the target needs {needed}",
            do="free space, or choose a target on another file system",
            details={"needed": needed, "available": available, "path": str(parent)},
        )


def _missing(path: Path, size_bytes: int) -> int:
    """Bytes of a file that take no space yet; a staged file is sparse until it is written."""
    try:
        return max(0, size_bytes - os.stat(path).st_blocks * 512)
    except FileNotFoundError:
        return size_bytes
