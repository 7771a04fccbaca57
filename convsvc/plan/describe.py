"""Which tensor goes where: a plan's numbers as names, for people and for JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from convsvc.plan.plan import Plan
from convsvc.plan.records import PlannedFile, PlannedTensor, Transfer
from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import sort_boxes

WILD = "*?["


class _Way(NamedTuple):
    """From a source tensor to a target tensor, through a logical tensor; `how` is the transform on the way, if any."""

    logical: str
    target: int
    how: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """What a target tensor gets of a source tensor: boxes of the logical tensor, half open, and where they are written."""

    logical: str
    boxes: tuple[Mapping[str, tuple[int, int]], ...]
    target: Mapping[str, Any]
    transform: str | None = None

    def as_dict(self) -> dict[str, Any]:
        boxes = [{axis: list(ends) for axis, ends in box.items()} for box in self.boxes]
        return {"logical": self.logical, "boxes": boxes, "transform": self.transform, "target": dict(self.target)}

    def __str__(self) -> str:
        boxes = " ".join("[" + ", ".join(f"{axis} {start}:{stop}" for axis, (start, stop) in box.items()) + "]" for box in self.boxes)
        change = f" by {self.transform}" if self.transform else ""
        return f"{self.logical} {boxes}{change} -> {_text(self.target)}"


@dataclass(frozen=True, slots=True)
class Move:
    """A source tensor (`source`: file, name, dtype, shape) and everything that is made of it."""

    source: Mapping[str, Any]
    parts: tuple[Part, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"source": dict(self.source), "parts": [part.as_dict() for part in self.parts]}

    def __str__(self) -> str:
        return "\n".join([_text(self.source), *(f"  {part}" for part in self.parts)])


def describe_moves(plan: Plan, pattern: str = "*") -> Iterator[Move]:
    """Every source tensor that the pattern names, in the plan's order.

    The pattern is a shell's (`*q_proj*`), or a part of a name; it is tried on the source tensor's stored name, on the logical tensor's
    and on those of the target tensors that get something of it. Copies that are only compared with what is read are not listed.
    """
    wanted = pattern if any(mark in pattern for mark in WILD) else f"*{pattern}*"
    ways: dict[int, dict[_Way, list[Box]]] = {}
    for task in plan.tasks:
        for transfer in task.transfers:
            for source, way, box in _ways(transfer):
                names = plan.source_tensors[source].name, way.logical, plan.target_tensors[way.target].name
                if any(fnmatchcase(name, wanted) for name in names):
                    ways.setdefault(source, {}).setdefault(way, []).append(box)
    for source in sorted(ways):
        parts = tuple(_part(plan, way, boxes) for way, boxes in ways[source].items())
        yield Move(_stored(plan.source_tensors[source], plan.source_files), parts)


def _ways(transfer: Transfer) -> Iterator[tuple[int, _Way, Box]]:
    """(source tensor, way, box) for each box that is read and written in one piece; a transform's further tensors included."""
    writes = {view.box: view.places for view in transfer.writes}
    kind = transfer.transform.kind if transfer.transform else None
    boxes = sort_boxes(list(writes))
    for read in transfer.reads:
        for write, common in boxes.meeting(read.box):
            for place in writes[write]:
                yield read.places[0].tensor, _Way(transfer.name, place.tensor, kind), common
    for operand in transfer.transform.operands if transfer.transform else ():
        for view in operand.views:
            for places in writes.values():
                for place in places:
                    yield view.places[0].tensor, _Way(operand.name, place.tensor, kind), view.box


def _part(plan: Plan, way: _Way, boxes: Iterable[Box]) -> Part:
    joined = join_boxes(boxes)
    axes = plan.axes.get(way.logical) or tuple(f"axis{number}" for number in range(len(joined[0][0])))
    named = tuple(dict(zip(axes, zip(*box, strict=True), strict=True)) for box in joined)
    return Part(way.logical, named, _stored(plan.target_tensors[way.target], plan.target_files), way.how)


def join_boxes(boxes: Iterable[Box]) -> list[Box]:
    """The boxes, neighbours that make up one box joined: a plan cuts what is large into pieces.

    >>> [tuple(box) for box in join_boxes([Box((0, 0), (2, 4)), Box((2, 0), (6, 4)), Box((0, 6), (6, 8))])]
    [((0, 0), (6, 4)), ((0, 6), (6, 8))]
    """
    left = sorted(set(boxes))
    rank = len(left[0][0]) if left else 0
    for axis in range(rank):
        joined: list[Box] = []
        for box in sorted(left, key=lambda box: (_but(box, axis), box.starts[axis])):
            if joined and _but(joined[-1], axis) == _but(box, axis) and joined[-1].stops[axis] == box.starts[axis]:
                joined[-1] = Box(joined[-1].starts, box.stops)
            else:
                joined.append(box)
        left = joined
    return sorted(left)


def _but(box: Box, axis: int) -> tuple[tuple[int, ...], ...]:
    return tuple(ends[:axis] + ends[axis + 1 :] for ends in box)


def _stored(tensor: PlannedTensor, files: tuple[PlannedFile, ...]) -> dict[str, Any]:
    return {"file": files[tensor.file].path, "name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _text(stored: Mapping[str, Any]) -> str:
    return f"{stored['file']}: {stored['name']} {stored['dtype']} {stored['shape']}"
