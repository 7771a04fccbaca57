"""What a plan will need where it runs: a worker's memory, and room for the target. Looks at the target's file system, at nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from convsvc.errors import JobError
from convsvc.execute.pipeline import SLOTS, WIDE_SLOTS
from convsvc.execute.staging.room import Room, room_for
from convsvc.execute.steps.checks import CHECK_BYTES
from convsvc.execute.worker import BUDGET
from convsvc.plan.plan import Plan
from convsvc.plan.records import Task

# The interpreter, numpy and the worker's own modules: 60 to 80 MiB measured with Python 3.11 and numpy 2.
PROCESS_BYTES = 96 << 20
# A slot's two buffers fill up one by one, each to its own largest step: together they are at most twice a step's budget.
# A copy's piece is read into a buffer of half as much again, and compared by way of arrays of up to three times its bytes.
BUFFER_BYTES = SLOTS * 2 * BUDGET.step_bytes + WIDE_SLOTS * BUDGET.wide_bytes + 5 * CHECK_BYTES
# A view, a place or a tensor of a task: as JSON and as records, both there while the task is loaded.
RECORD_BYTES = 2 << 10


@dataclass(frozen=True, slots=True)
class Forecast:
    """`projected_bytes` is the most memory that one worker takes, page cache apart; the others are the target's room, in bytes."""

    projected_bytes: int
    free_bytes_needed: int
    free_bytes_available: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def forecast(plan: Plan) -> Forecast:
    """What the plan needs, whether there is as much or not. Raises OSError if the target's file system cannot be asked."""
    room: Room = room_for(plan)
    return Forecast(projected_bytes(plan), room.needed_bytes, room.available_bytes)


def projected_bytes(plan: Plan) -> int:
    """An upper bound of one worker's resident memory, whichever of the plan's tasks it does; page cache apart."""
    return PROCESS_BYTES + BUFFER_BYTES + RECORD_BYTES * max(map(_records, plan.tasks), default=0)


def check_memory(plan: Plan, limit_bytes: int | None) -> None:
    """Raises JobError where a worker may need more memory than it is allowed."""
    projected = projected_bytes(plan)
    if limit_bytes is not None and projected > limit_bytes:
        raise JobError(
            f"a worker may need {projected >> 20} MiB, the memory limit is {limit_bytes >> 20} MiB",
            facts=[f"{BUFFER_BYTES >> 20} MiB of them are buffers, {PROCESS_BYTES >> 20} MiB the process itself"],
            do=f"allow at least {-(-projected >> 20)} MiB",
            details={"projected_bytes": projected, "limit_bytes": limit_bytes},
        )


def _records(task: Task) -> int:
    """Views and places of a task; a place stands for its tensor too."""
    views = [view for transfer in task.transfers for view in (*transfer.reads, *transfer.writes, *transfer.checks)]
    return len(views) + sum(len(view.places) for view in views)
