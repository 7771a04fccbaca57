"""From blocks on both sides to transfers, with the proof that every target element comes from exactly one source element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from operator import sub

from convsvc.errors import PlanError
from convsvc.plan.records import Fill, Place, Transfer, View
from convsvc.tensors.blocks import Block, Laid, LogicalTensor
from convsvc.tensors.cover import covered_volumes, first_overlap, missing_part, sort_boxes, volumes

Shape = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True)
class Gathered:
    """The blocks of one logical tensor on one side, grouped by box and strides: places that hold the same elements."""

    tensor: LogicalTensor
    unit: str
    places: dict[Shape, list[Place]]
    fills: list[Fill]

    def views(self) -> list[View]:
        return [View(starts, stops, strides, tuple(places)) for (starts, stops, strides), places in self.places.items()]


def gather(tensors: Iterable[tuple[int, str, Laid]]) -> dict[str, Gathered]:
    """Every logical tensor's places, from (number, unit, laid) of the stored tensors, in order of first appearance."""
    gathered: dict[str, Gathered] = {}
    # Ranks share what they hold alike: its blocks are looked at once. It is kept beside, so that its id stays its own.
    slots: dict[int, tuple[Laid, list[tuple[list[Place], int]]]] = {}
    for number, unit, laid in tensors:
        known = slots.get(id(laid))
        if known is None:
            known = slots[id(laid)] = laid, list(_slots(gathered, unit, laid))
        for places, offset in known[1]:
            places.append(Place(number, offset))
        if laid.padding:
            gathered[laid.blocks[0].tensor.name].fills += [Fill(number, *run) for run in laid.padding]
    return gathered


def _slots(gathered: dict[str, Gathered], unit: str, laid: Laid) -> Iterator[tuple[list[Place], int]]:
    """Where a stored tensor is entered: for each block, the places of its elements, and its offset."""
    for block in laid.blocks:
        each = gathered.get(block.tensor.name)
        if each is None:
            each = gathered[block.tensor.name] = Gathered(block.tensor, unit, {}, [])
        if block.volume:
            yield each.places.setdefault((block.starts, block.stops, block.strides), []), block.offset


def check_tiled(laid: Laid) -> None:
    """A stored tensor's blocks and padding must make up all of it.

    Raises PlanError; that is a mistake in a declaration.
    """
    held = sum(block.volume for block in laid.blocks) + sum(count for _, count in laid.padding)
    if held != prod(laid.shape):
        raise PlanError(f"the declaration of {laid.name} {list(laid.shape)} accounts for {held} of its {prod(laid.shape)} elements")


def make_transfers(sources: dict[str, Gathered], targets: dict[str, Gathered]) -> list[tuple[str, Transfer]]:
    """(unit, transfer) for every logical tensor of the target.

    Raises PlanError, naming the logical tensors and the missing boxes, if the source does not hold all that is wanted.
    """
    faults: list[str] = []
    made: list[tuple[str, Transfer]] = []
    for name, target in targets.items():
        source = sources.get(name)
        if source is None:
            faults.append(f"{target.tensor}: the source does not have it")
            continue
        reads, writes = distinct_boxes(source.views()), target.views()
        fault = _uncovered(target.tensor, reads, writes)
        if fault:
            faults.append(fault)
        made.append(
            (
                target.unit,
                Transfer(
                    name,
                    target.tensor.sizes,
                    cutting_order(writes, target.tensor.sizes),
                    tuple(reads),
                    tuple(writes),
                    tuple(target.fills),
                ),
            )
        )
    if faults:
        raise PlanError(f"{len(faults)} of {len(targets)} logical tensors are not covered", facts=faults[:12], details={"tensors": faults})
    return made


def stand_in(sources: dict[str, Gathered], targets: dict[str, Gathered], same_as: Mapping[str, str]) -> dict[str, Gathered]:
    """The sources, with a declared copy's original in the place of a wanted copy that is not there."""
    lacking = {name: same_as[name] for name in targets if name not in sources and name in same_as}
    return sources | {copy: sources[original] for copy, original in lacking.items() if original in sources}


def distinct_boxes(views: Sequence[View]) -> list[View]:
    """One view a box: the same box in another order (a tied head, say) is a replica that need not be read."""
    by_box: dict[tuple[tuple[int, ...], tuple[int, ...]], View] = {}
    for view in views:
        by_box.setdefault((view.starts, view.stops), view)
    return list(by_box.values())


def clip_views(views: Sequence[View], to: Sequence[View]) -> list[View]:
    """The views' parts in the boxes of `to`, which are disjoint; a view that lies in them whole stays one."""
    boxes = sort_boxes([(view.starts, view.stops) for view in to])
    clipped: list[View] = []
    for view in views:
        common = list(boxes.meeting((view.starts, view.stops)))
        if sum(prod(map(sub, stops, starts)) for _, (starts, stops) in common) == view.volume:
            clipped.append(view)
        else:
            clipped += [piece for _, box in common if (piece := view.restricted(*box)) is not None]
    return clipped


def cutting_order(writes: Sequence[View], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes from the target's outermost to its innermost, seen in its largest view; axes it fixes come first."""
    if not writes:
        return tuple(range(len(sizes)))
    largest = max(writes, key=lambda view: view.volume)

    def weight(axis: int) -> float:
        fixed = largest.stops[axis] - largest.starts[axis] == 1 and sizes[axis] > 1
        return inf if fixed else largest.strides[axis]

    return tuple(sorted(range(len(sizes)), key=lambda axis: (-weight(axis), axis)))


def _uncovered(tensor: LogicalTensor, reads: Sequence[View], writes: Sequence[View]) -> str | None:
    boxes, wanted = [(view.starts, view.stops) for view in reads], [(view.starts, view.stops) for view in writes]
    twice = first_overlap(boxes)
    if twice:
        return f"{tensor}: the source holds {_shown(tensor, *twice[0])} and {_shown(tensor, *twice[1])}, which overlap"
    for box, covered, whole in zip(wanted, covered_volumes(wanted, boxes), volumes(wanted), strict=True):
        if covered != whole:
            return f"{tensor}: missing {_shown(tensor, *(missing_part(box, sort_boxes(boxes)) or box))}"
    return None


def _shown(tensor: LogicalTensor, starts: tuple[int, ...], stops: tuple[int, ...]) -> str:
    return "[" + ", ".join(f"{axis} {a}:{b}" for axis, a, b in zip(tensor.axes, starts, stops, strict=True)) + "]"


__all__ = ["Block", "Gathered", "check_tiled", "clip_views", "cutting_order", "distinct_boxes", "gather", "make_transfers", "stand_in"]
