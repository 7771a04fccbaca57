"""Lays the wanted views of a tile out in the output buffer, with the copies that fill them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from convsvc.execute.steps.alignment import BLOCK_BYTES, LEAST_BYTES
from convsvc.execute.steps.held import HeldViews
from convsvc.execute.steps.inputs import ALIGNMENT, BufferSpot, Reading, agreeing_start
from convsvc.execute.steps.records import Copy, Write, WritePlace
from convsvc.execute.steps.regions import BufferPart, lay_out
from convsvc.execute.steps.strides import merge_axes, shift
from convsvc.plan.records import PlannedTensor, View
from convsvc.tensors.dtypes import size_of

# A copy this long is written from the input buffer as it lies there, even if it is only a part of a range of the target.
LONG_RUN_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Group:
    """Wanted views that are written together: how their part of the output buffer is laid out, and what is written from it."""

    views: tuple[View, ...]
    part: BufferPart
    start: int
    dtype: str

    def spots(self) -> Iterator[tuple[View, BufferSpot]]:
        """Each view and where it lies in the output buffer."""
        for view, spot in zip(self.views, self.part.spots, strict=True):
            yield view, BufferSpot(self.start + spot.at * size_of(self.dtype), spot.strides, self.dtype)

    def copies(self, held: HeldViews) -> Iterator[Copy]:
        """What fills the views, as far as it is held."""
        for view, spot in self.spots():
            yield from copies_to(view, spot, held)

    def writes(self) -> Iterator[Write]:
        """All of the group's part, to all its places."""
        itemsize = size_of(self.dtype)
        for each in self.part.ranges:
            places = _places(self.views[0], itemsize, each.start * itemsize)
            start = self.start + each.at * itemsize
            yield Write(start, each.count * itemsize, False, places, each.times, each.step * itemsize)

    def stop(self) -> int:
        """Where the next group's part may begin."""
        return self.start + -(-self.part.count * size_of(self.dtype) // ALIGNMENT) * ALIGNMENT


def lay_groups(wanted: Sequence[View], target: Sequence[PlannedTensor]) -> Iterator[Group]:
    """The wanted views' groups, one after the other in the output buffer."""
    start = 0
    for views in _same_places(wanted):
        group = lay_group(views, target, start)
        yield group
        start = group.stop()


def lay_writes(wanted: Sequence[View], held: HeldViews, target: Sequence[PlannedTensor]) -> tuple[tuple[Copy, ...], tuple[Write, ...], int]:
    """Copies and writes for all wanted views, and the bytes of output buffer they take."""
    copies: list[Copy] = []
    writes: list[Write] = []
    output = 0
    for views in _same_places(wanted):
        group = lay_group(views, target, output)
        made = list(group.copies(held))
        if _go_direct(group, made, held.reading):
            writes += [_direct(copy, group) for copy in made]
            continue
        writes += group.writes()
        copies += made
        output = group.stop()
    return tuple(copies), tuple(writes), output


def lay_group(views: Sequence[View], target: Sequence[PlannedTensor], start: int) -> Group:
    """The group of these views, its part of the output buffer from byte `start` on, or a little later."""
    tensor = target[views[0].places[0].tensor]
    part = lay_out(views, size_of(tensor.dtype), slack=1.0)
    return Group(tuple(views), part, agreeing_start(tensor, part.ranges[0], start), tensor.dtype)


def _same_places(views: Sequence[View]) -> list[list[View]]:
    """Views that lie in the same target tensors at the same distances from each other: they are written together."""

    def key(view: View) -> tuple[tuple[int, int], ...]:
        first = view.places[0].offset
        return tuple((place.tensor, place.offset - first) for place in view.places)

    return [list(group) for _, group in groupby(sorted(views, key=key), key=key)]


def copies_to(view: View, there: BufferSpot, held: HeldViews) -> Iterator[Copy]:
    """The copies that fill one wanted view, which lies at `there` in the output buffer."""
    for overlap, spot in held.overlaps(view):
        here = shift(overlap.starts, view.starts, there.strides) * size_of(there.dtype)
        lengths = tuple(stop - start for start, stop in zip(overlap.starts, overlap.stops, strict=True))
        shape, source_strides, target_strides = merge_axes(lengths, spot.strides, there.strides)
        yield Copy(shape, spot.start, source_strides, spot.dtype, there.start + here, target_strides, there.dtype, spot.tensor)


def _go_direct(group: Group, copies: list[Copy], reading: Reading) -> bool:
    """Whether all copies are straight, and lie in the input buffer so that they can be written from there around the page cache."""
    if len(group.part.ranges) > 1 or group.part.ranges[0].times > 1:
        return False
    if reading.computed or not all(copy.is_straight for copy in copies):
        return False
    if len(copies) > 1 and any(copy.size_bytes < LONG_RUN_BYTES for copy in copies):
        return False
    return all(copy.size_bytes < LEAST_BYTES or (copy.source_start - copy.target_start) % BLOCK_BYTES == 0 for copy in copies)


def _direct(copy: Copy, group: Group) -> Write:
    """Writes a straight copy's run of the group's only range from the input buffer."""
    itemsize = size_of(copy.target_dtype)
    data_start = group.part.ranges[0].start * itemsize + copy.target_start - group.start
    return Write(copy.source_start, copy.size_bytes, True, _places(group.views[0], itemsize, data_start))


def _places(view: View, itemsize: int, data_start: int) -> tuple[WritePlace, ...]:
    """`data_start` is the byte in the view's first place's tensor; the other places are at constant distances from it."""
    first = view.places[0].offset
    return tuple(WritePlace(place.tensor, data_start + (place.offset - first) * itemsize) for place in view.places)
