"""The way back of a plan: the same transfers with reads and writes exchanged. Pure.

`verify: roundtrip` runs it from the written files and compares with the source instead of writing.
"""

from __future__ import annotations

from collections.abc import Sequence

from convsvc.plan.plan import Plan
from convsvc.plan.planner import check_roundtrip
from convsvc.plan.records import Place, PlannedTensor, Task, Transfer, View
from convsvc.plan.tasks import element_sizes, transfer_bytes
from convsvc.plan.transfers import clip_views, cutting_order, split_copies


def reverse_tasks(plan: Plan) -> tuple[Task, ...]:
    """A task for each of the plan's, whose sources are the plan's targets and whose targets are its sources.

    Raises JobError if the plan changes values so that they cannot come back.
    """
    check_roundtrip(plan)
    return tuple(_reversed(task, plan) for task in plan.tasks)


def _reversed(task: Task, plan: Plan) -> Task:
    transfers = tuple(reverse_transfer(transfer, plan.source_tensors) for transfer in task.transfers)
    read, compared = element_sizes(plan.target_tensors), element_sizes(plan.source_tensors)
    sizes = [transfer_bytes(each, read, compared) for each in transfers]
    return Task(task.id, task.name, transfers, sum(read for read, _ in sizes), sum(written for _, written in sizes))


def reverse_transfer(transfer: Transfer, sources: Sequence[PlannedTensor]) -> Transfer:
    """The transfer the other way: every place that was written is read, or compared with what is, and every place that was read
    is compared. Only what was written can be compared, so the new writes are clipped to it. What was filled is padding now.
    """
    reads, checks = split_copies(transfer.writes)
    writes = tuple(clip_views(_with_copies(transfer, sources), reads))
    order = cutting_order(transfer.reads, transfer.sizes)
    return Transfer(transfer.name, transfer.sizes, order, tuple(reads), writes, checks=tuple(checks), padding=transfer.fills)


def _with_copies(transfer: Transfer, sources: Sequence[PlannedTensor]) -> list[View]:
    """What was read with the copies that were compared with it, as views to be written: alike in dtype; and nothing quantised but
    where its scales are kept."""
    places: dict[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str], list[Place]] = {}
    for view in (*transfer.reads, *transfer.checks):
        for place in view.places:
            stored = sources[place.tensor]
            if stored.coded is None or stored.coded.own:
                places.setdefault((view.starts, view.stops, view.strides, stored.dtype), []).append(place)
    return [View(starts, stops, strides, tuple(held)) for (starts, stops, strides, _), held in places.items()]
