"""Whether a target fits its file system, asked before the first byte is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from convsvc.errors import NoSpace
from convsvc.plan.plan import Plan
from convsvc.units import in_bytes

# For directories and marks.
RESERVE_BYTES = 4 << 20
# A task's file has some 150 bytes for each of its views' places.
PLACE_BYTES = 256


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that a target still lacks, and those free on its file system."""

    needed_bytes: int
    available_bytes: int


def check_room(plan: Plan, staging: Path, parent: Path) -> None:
    """Raises NoSpace where the free space under `parent` is less than what `staging` still lacks."""
    room = Room(sum(_missing(staging / file.path, file.size_bytes) for file in plan.target_files) + _beside(plan), _free(parent))
    if room.needed_bytes > room.available_bytes:
        raise NoSpace(
            f"{parent} has {in_bytes(room.available_bytes)} free, the target needs {in_bytes(room.needed_bytes)}",
            do="free space, or choose a target on another file system",
            details={"needed": room.needed_bytes, "available": room.available_bytes, "path": str(parent)},
        )


def room_for(plan: Plan) -> Room:
    """The room that the plan's target needs when nothing of it is there, and has; no directory is made. Raises OSError."""
    target = Path(os.path.realpath(plan.target_path))
    return Room(plan.bytes_out + _beside(plan), _free(next(folder for folder in (target, *target.parents) if folder.is_dir())))


def _beside(plan: Plan) -> int:
    """What the staging directory takes beside the target's files."""
    views = (view for task in plan.tasks for transfer in task.transfers for view in (*transfer.reads, *transfer.writes, *transfer.checks))
    return RESERVE_BYTES + PLACE_BYTES * sum(1 + len(view.places) for view in views)


def _free(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _missing(path: Path, size_bytes: int) -> int:
    """Bytes of a file that take no space yet; a staged file is sparse until it is written."""
    try:
        return max(0, size_bytes - os.stat(path).st_blocks * 512)
    except FileNotFoundError:
        return size_bytes
