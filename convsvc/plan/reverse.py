"""The way back of a plan: the same transfers with reads and writes exchanged. Pure.

`verify: roundtrip` runs it from the written files and compares with the source instead of writing.
"""

from __future__ import annotations

from convsvc.plan.plan import Plan
from convsvc.plan.planner import check_roundtrip
from convsvc.plan.records import Task, Transfer
from convsvc.plan.tasks import element_sizes, transfer_bytes
from convsvc.plan.transfers import clip_views, cutting_order, distinct_boxes


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
        tuple(clip_views(transfer.reads, reads)),
    )
