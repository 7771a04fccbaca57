"""The picture of a plan: both checkpoints, and which part of a tensor goes from which file into which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from convsvc.pictures.gather import Lying, Part, Side, compose_picture
from convsvc.plan.plan import Plan
from convsvc.plan.records import Operand, PlannedTensor, Transfer, View


def picture_of_plan(plan: Plan) -> dict[str, Any]:
    """The data of the plan's picture, as `compose_picture` says."""
    facts = {
        "family": plan.model_type,
        "tasks": len(plan.tasks),
        "plan": plan.fingerprint[:16],
        **{name: value for name, value in plan.facts.items() if isinstance(value, str | int | float | bool)},
    }
    sides = (_side(plan, "source"), _side(plan, "target"))
    return compose_picture(f"{sides[0].format} to {sides[1].format}", facts, sides, _lying(plan))


def _side(plan: Plan, side: str) -> Side:
    said = plan.job.get(side, {})
    root = str(said.get("path", "")).rstrip("/") + "/"
    files = plan.source_files if side == "source" else plan.target_files
    return Side(side, str(said.get("format", "")), root[:-1], [(file.path.removeprefix(root), file.size_bytes) for file in files])


def _lying(plan: Plan) -> Iterator[Lying]:
    sources, targets = plan.source_tensors, plan.target_tensors
    for task in plan.tasks:
        for transfer in task.transfers:
            sides = _parts(_held(transfer), sources), _parts(transfer.writes, targets)
            yield Lying(transfer.name, _axes(plan, transfer), transfer.sizes, sides)
            for operand in transfer.transform.operands if transfer.transform else ():
                yield Lying(operand.name, _axes(plan, operand), operand.sizes, (_parts((*operand.views, *operand.checks), sources), ()))


def _axes(plan: Plan, tensor: Transfer | Operand) -> tuple[str, ...]:
    return plan.axes.get(tensor.name) or tuple(f"axis {number}" for number in range(len(tensor.sizes)))


def _held(transfer: Transfer) -> tuple[View, ...]:
    """Where the source has it: what is read, and further copies, which are compared with that."""
    return (*transfer.reads, *transfer.checks)


def _parts(views: Iterable[View], tensors: Sequence[PlannedTensor]) -> list[Part]:
    found: list[Part] = []
    for view in views:
        by_name: dict[str, list[int]] = {}
        for place in view.places:
            tensor = tensors[place.tensor]
            by_name.setdefault(tensor.name, []).append(tensor.file)
        found += [Part(name, tuple(files), view.starts, view.stops) for name, files in by_name.items()]
    return found
