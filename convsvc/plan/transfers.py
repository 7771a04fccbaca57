"""From blocks on both sides to transfers, with the proof that every target element comes from exactly one source element."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from math import inf, prod
from operator import lt, sub

from convsvc.dialects.layout import Entry, Layout
from convsvc.errors import PlanError
from convsvc.plan.match import Inventory, Located
from convsvc.plan.records import Fill, Place, Transfer, View
from convsvc.tensors.blocks import Laid, LogicalTensor
from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import Boxes, covered_volumes, first_overlap, missing_part, shown_box, sort_boxes, volumes
from convsvc.tensors.quick import quick

Shape = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True)
class Gathered:
    """The blocks of one logical tensor on one side, grouped by box and strides: places that hold the same elements."""

    tensor: LogicalTensor
    unit: str
    places: dict[Shape, list[Place]]
    fills: list[Fill]

    def views(self) -> list[View]:
        return [quick(View, (starts, stops, strides, tuple(places))) for (starts, stops, strides), places in self.places.items()]


def gather(layout: Layout | Inventory) -> dict[str, Gathered]:
    """Every logical tensor's places in a layout's entries, which are numbered as they come; in order of first appearance."""
    gathered: dict[str, Gathered] = {}
    kinds = layout.kinds
    entries: Sequence[Entry | Located] = layout.entries
    slots: list[list[tuple[list[Place], int]] | None] = [None] * len(kinds)
    for number, entry in enumerate(entries):
        known = slots[entry.kind]
        if known is None:
            known = slots[entry.kind] = list(_slots(gathered, entry.unit, kinds[entry.kind]))
        for places, offset in known:
            places.append(quick(Place, (number, offset)))
        laid = kinds[entry.kind]
        # What is idle in a source is not even looked at.
        padding = laid.padding + laid.idle if isinstance(layout, Layout) else laid.padding
        if padding:
            gathered[kinds[entry.kind].blocks[0].tensor.name].fills += [Fill(number, *run) for run in padding]
    return gathered


def _slots(gathered: dict[str, Gathered], unit: str, laid: Laid) -> Iterator[tuple[list[Place], int]]:
    """Where a stored tensor is entered: for each block, the places of its elements, and its offset."""
    for block in laid.blocks:
        each = gathered.get(block.tensor.name)
        if each is None:
            each = gathered[block.tensor.name] = Gathered(block.tensor, unit, {}, [])
        if all(map(lt, block.starts, block.stops)):
            yield each.places.setdefault((block.starts, block.stops, block.strides), []), block.offset


def check_tiled(kinds: Iterable[Laid]) -> None:
    """Every stored tensor's blocks and padding must make up all of it.

    Raises PlanError; that is a mistake in a declaration.
    """
    kinds, seen = list(kinds), set()
    for laid in kinds:
        if len(laid.blocks) == 1 and not laid.padding and not laid.idle:
            # In a thousand layers the same row has the very same numbers.
            numbers = id(laid.shape), id(laid.blocks[0].starts), id(laid.blocks[0].stops)
            if numbers in seen:
                continue
            seen.add(numbers)
        held = sum([prod(map(sub, block.stops, block.starts)) for block in laid.blocks]) + sum(
            [count for _, count in laid.padding + laid.idle]
        )
        if held != prod(laid.shape):
            raise PlanError(f"the declaration of {laid.name} {list(laid.shape)} accounts for {held} of its {prod(laid.shape)} elements")


def check_unique(side: str, keys: Sequence[tuple[str, str]]) -> None:
    """No file of a layout has two tensors of one name: one of them would be lost. `keys` are (file, name); `side` is for the error.

    Raises PlanError; that is a mistake in a declaration.
    """
    if len(set(keys)) == len(keys):
        return
    twice = [key for key, count in Counter(keys).items() if count > 1]
    raise PlanError(
        f"{len(twice)} stored tensors of the {side} have the same name as another one in their file",
        facts=[f"{file}: {name}" if file else name for file, name in twice[:12]],
        do="this is a fault of the declarations: please report it with the job",
        details={"names": [name for _, name in twice]},
    )


def make_transfers(
    sources: dict[str, Gathered], targets: dict[str, Gathered], copies: Mapping[str, Sequence[Gathered]] | None = None
) -> list[tuple[str, Transfer]]:
    """(unit, transfer) for every logical tensor of the target, with everything that the source holds again as its checks.

    `copies` are, for a logical tensor, others of the source that are declared to be it and that the target does not hold. Raises
    PlanError, naming the logical tensors and the missing boxes, if the source does not hold all that is wanted.
    """
    faults: list[str] = []
    made: list[tuple[str, Transfer]] = []
    for name, target in targets.items():
        source = sources.get(name)
        if source is None:
            faults.append(f"{target.tensor}: the source does not have it")
            continue
        (reads, checks), writes = split_copies(source.views()), target.views()
        fault = _uncovered(target.tensor, reads, writes)
        if fault:
            faults.append(fault)
        sizes = target.tensor.sizes
        transfer = Transfer(name, sizes, cutting_order(writes, sizes), tuple(reads), tuple(writes), tuple(target.fills))
        # A tensor that stands in for its copy is looked at once, under its own name.
        if name == source.tensor.name:
            further = (copies or {}).get(name, ())
            views = (*checks, *(view for copy in further for view in copy.views()))
            padding = (*source.fills, *(run for copy in further for run in copy.fills))
            if views or padding:
                transfer = replace(transfer, checks=views, padding=padding)
        made.append((target.unit, transfer))
    if faults:
        raise PlanError(f"{len(faults)} of {len(targets)} logical tensors are not covered", facts=faults[:12], details={"tensors": faults})
    return made


def stand_in(sources: dict[str, Gathered], targets: dict[str, Gathered], same_as: Mapping[str, str]) -> dict[str, Gathered]:
    """The sources, with a declared copy's original in the place of a wanted copy that is not there."""
    lacking = {name: same_as[name] for name in targets if name not in sources and name in same_as}
    return sources | {copy: sources[original] for copy, original in lacking.items() if original in sources}


def split_copies(views: Sequence[View]) -> tuple[list[View], list[View]]:
    """One view a box, with one place, and everything that holds a box again: on other ranks, or in another order."""
    if len({view[:2] for view in views}) == len(views) and max([len(view.places) for view in views], default=1) == 1:
        return list(views), []
    by_box: dict[Box, View] = {}
    copies: list[View] = []
    for view in views:
        box = view.box
        if box in by_box:
            copies.append(view)
        elif len(view.places) == 1:
            by_box[box] = view
        else:
            by_box[box] = View(*box, view.strides, view.places[:1])
            copies.append(View(*box, view.strides, view.places[1:]))
    return list(by_box.values()), copies


def clip_views(views: Sequence[View], to: Sequence[View]) -> list[View]:
    """The views' parts in the boxes of `to`, which are disjoint; a view that lies in them whole stays one."""
    boxes = sort_boxes([view.box for view in to])
    clipped: list[View] = []
    for view in views:
        common = list(boxes.meeting(view.box))
        if sum(prod(map(sub, stops, starts)) for _, (starts, stops) in common) == view.volume:
            clipped.append(view)
        else:
            clipped += [piece for _, box in common if (piece := view.restricted(box)) is not None]
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
    boxes, wanted = (Boxes(map(quick, repeat(Box), [view[:2] for view in views])) for views in (reads, writes))
    twice = first_overlap(boxes)
    if twice:
        return f"{tensor}: the source holds {shown_box(tensor.axes, twice[0])} and {shown_box(tensor.axes, twice[1])}, which overlap"
    for box, covered, whole in zip(wanted, covered_volumes(wanted, boxes), volumes(wanted), strict=True):
        if covered != whole:
            return f"{tensor}: missing {shown_box(tensor.axes, missing_part(box, boxes.in_order) or box)}"
    return None
