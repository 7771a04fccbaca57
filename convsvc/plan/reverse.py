"""The way back of a plan: the same transfers with reads and writes exchanged. Pure.

`verify: roundtrip` runs it from the written files and compares with the source instead of writing.
"""

from __future__ import annotations

from collections.abc import Sequence

from convsvc.plan.plan import Plan
from convsvc.plan.planner import check_roundtrip
from convsvc.plan.records import Task, Transfer, View
from convsvc.plan.tasks import element_sizes, transfer_bytes
from convsvc.plan.transfers import cutting_order, distinct_boxes
from convsvc.tensors.cover import sort_boxes


def reverse_tasks(plan: Plan) -> tuple[Task, ...]:
    """A task for each of the plan's, whose sources are the plan's targets and whose targets are its sources.

    Raises JobError if the plan changes values so that they cannot come back.
    """
    check_roundtrip(plan)
    return tuple(_reversed(task, plan) for task in plan.tasks)


def _reversed(task: Task, plan: Plan) -> Task:
    transfers = tuple(reverse_transfer(transfer) for transfer in task.transfers)
    read, compared = element_sizes(plan.target_tensors), element_sizes(plan.source_tensors)
    sizes = [transfer_bytes(each, read, compared) for each in transfers]
    return Task(task.id, task.name, transfers, sum(read for read, _ in sizes), sum(written for _, written in sizes))


def reverse_transfer(transfer: Transfer) -> Transfer:
    """The transfer the other way; only what was written can be compared, so the new writes are clipped to it."""
    reads = distinct_boxes(transfer.writes)
    return Transfer(
        transfer.name,
        transfer.sizes,
        cutting_order(transfer.reads, transfer.sizes),
        tuple(reads),
        tuple(_clip(transfer.reads, reads)),
    )


def _clip(views: Sequence[View], to: Sequence[View]) -> list[View]:
    boxes = sort_boxes([(view.starts, view.stops) for view in to])
    clipped: list[View] = []
    for view in views:
        common = list(boxes.meeting((view.starts, view.stops)))
        if sum(_volume(starts, stops) for _, (starts, stops) in common) == view.volume:
            clipped.append(view)
        else:
            clipped += [piece for _, box in common if (piece := view.restricted(*box)) is not None]
    return clipped


def _volume(starts: tuple[int, ...], stops: tuple[int, ...]) -> int:
    from math import prod

    return prod(b - a for a, b in zip(starts, stops, strict=True))
