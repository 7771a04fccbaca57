"""How the views of one stored tensor lie in a buffer: which ranges of the tensor are moved, and where each view starts.

Offsets and counts are in elements, of the tensor or of the buffer part that holds its ranges. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import mul, sub

from convsvc.plan.records import View

# A run shorter than this is not worth a read of its own: a disk gives whole sectors anyway.
SHORT_RUN_BYTES = 512
# ... unless reading the gaps too would mean this many times the bytes.
MOST_OVERREAD = 16


@dataclass(frozen=True, slots=True)
class Range:
    """`count` elements from `start` on of a stored tensor, at `at` in the buffer part; `times` such runs, `step` elements apart.

    In the buffer part the runs follow on each other. A matrix's columns are thousands of runs: one record, not thousands.
    """

    start: int
    count: int
    at: int
    times: int = 1
    step: int = 0

    def each(self) -> Iterator[Range]:
        """Its runs one by one."""
        return (Range(self.start + n * self.step, self.count, self.at + n * self.count) for n in range(self.times))


@dataclass(frozen=True, slots=True)
class Spot:
    """A view inside the buffer part: its first element and its strides there."""

    at: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BufferPart:
    """A buffer part of `count` elements: the ranges in it and one spot for each view laid out."""

    count: int
    ranges: tuple[Range, ...]
    spots: tuple[Spot, ...]


def span(view: View) -> tuple[int, int]:
    """The half-open range of the (first) stored tensor that encloses the view."""
    start = view.places[0].offset
    ends = sum(map(mul, map(sub, view.stops, view.starts), view.strides))  # of each axis, one step too far
    return start, start + ends - sum(view.strides) + 1


def lay_out(views: Sequence[View], itemsize: int, slack: float) -> BufferPart:
    """Where the views of one stored tensor come to lie in a buffer part.

    Views that together fill a range keep their strides in it, and the range is one. A range counts as filled where
    range / needed <= slack: 1.0 for writing, where nothing else may be touched, 1.05 for reading. What is left is strided:
    each of its runs is a range of its own, packed in the buffer; for reading, runs under 512 bytes are read with the gaps
    between them, as long as that is less than 16 times the bytes.
    """
    ranges: list[Range] = []
    spots: list[Spot | None] = [None] * len(views)
    count = 0
    for members in _clusters(views):
        for group in _filled(views, members, itemsize, slack):
            part = _keep(views, group) if len(group) > 1 or _is_dense(views, group, itemsize, slack) else _pack(views[group[0]])
            ranges += [replace(r, at=r.at + count) for r in part.ranges]
            for number, spot in zip(group, part.spots, strict=True):
                spots[number] = Spot(spot.at + count, spot.strides)
            count += part.count
    return BufferPart(count, tuple(ranges), tuple(spot for spot in spots if spot is not None))


def _clusters(views: Sequence[View]) -> Iterator[list[int]]:
    """The views' numbers, those whose enclosing ranges touch together."""
    spans = [span(view) for view in views]
    cluster: list[int] = []
    end = -1
    for number in sorted(range(len(views)), key=spans.__getitem__):
        start, stop = spans[number]
        if cluster and start > end:
            yield cluster
            cluster = []
        cluster.append(number)
        end = max(end, stop) if len(cluster) > 1 else stop
    if cluster:
        yield cluster


def _filled(views: Sequence[View], members: list[int], itemsize: int, slack: float) -> list[list[int]]:
    """The cluster whole where it fills its range, else one by one."""
    if len(members) == 1 or _is_dense(views, members, itemsize, slack):
        return [members]
    return [[number] for number in members]


def _is_dense(views: Sequence[View], members: list[int], itemsize: int, slack: float) -> bool:
    needed = sum(views[number].volume for number in members)
    start, stop = _enclosing(views, members)
    if stop - start <= needed * slack:
        return True
    if slack == 1.0 or stop - start > needed * MOST_OVERREAD:
        return False
    return all(run_length(views[number]) * itemsize < SHORT_RUN_BYTES for number in members)


def _enclosing(views: Sequence[View], members: list[int]) -> tuple[int, int]:
    spans = [span(views[number]) for number in members]
    return min(start for start, _ in spans), max(stop for _, stop in spans)


def _keep(views: Sequence[View], members: list[int]) -> BufferPart:
    start, stop = _enclosing(views, members)
    spots = tuple(Spot(views[number].places[0].offset - start, views[number].strides) for number in members)
    return BufferPart(stop - start, (Range(start, stop - start, 0),), spots)


def _axes(view: View) -> list[tuple[int, int, int]]:
    """(axis, length, stride) of the axes that are longer than one, outermost in memory first."""
    lengths = [stop - start for start, stop in zip(view.starts, view.stops, strict=True)]
    axes = [(axis, n, view.strides[axis]) for axis, n in enumerate(lengths) if n > 1]
    return sorted(axes, key=lambda item: -item[2])


def run_length(view: View) -> int:
    """Elements that lie side by side in the stored tensor, from the view's first on."""
    run = 1
    for _, length, stride in reversed(_axes(view)):
        if stride != run:
            break
        run *= length
    return run


def _pack(view: View) -> BufferPart:
    """The view's runs one after the other, in the stored tensor's order."""
    axes = _axes(view)
    strides = [0] * len(view.starts)
    packed = 1
    for axis, length, _ in reversed(axes):
        strides[axis] = packed
        packed *= length
    run = run_length(view)
    *outer, (times, step) = [(1, 0), *((length, stride) for axis, length, stride in axes if strides[axis] >= run)]
    first = view.places[0].offset
    steps = product(*(range(0, length * stride, stride) if stride else (0,) for length, stride in outer))
    ranges = tuple(Range(first + sum(at), run, number * times * run, times, step) for number, at in enumerate(steps))
    return BufferPart(packed, ranges, (Spot(0, tuple(strides)),))
