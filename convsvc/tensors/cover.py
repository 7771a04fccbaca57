"""The proof that boxes cover boxes exactly: in bounds, disjoint, volumes add up. Pure.

Boxes are pairs (starts, stops) in one logical tensor's coordinates, half open. Matching sorts by an axis along which the boxes are
cut and looks only at neighbours, so it is near linear in the number of boxes and overlaps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod

import numpy as np
import numpy.typing as npt

from convsvc.tensors.boxes import Box

Numbers = npt.NDArray[np.int64]

# Up to so many boxes, or pairs of them, one by one is faster than numpy: most tensors lie in one box or a few.
FEW = 16


class Boxes(tuple[Box, ...]):
    """Boxes of which more than one thing is asked: as numbers, and in order, they are made once."""

    @cached_property
    def corners(self) -> tuple[Numbers, Numbers]:
        """The starts and the stops of all, a row a box."""
        shape = (len(self), 2, len(self[0].starts) if self else 0)
        both = np.fromiter(chain.from_iterable(chain.from_iterable(self)), np.int64, prod(shape)).reshape(shape)
        return both[:, 0], both[:, 1]

    @cached_property
    def in_order(self) -> Sorted:
        return sort_boxes(self)


def volumes(boxes: Sequence[Box]) -> list[int]:
    """The volume of each, all at once.

    >>> volumes([Box((0,), (4,)), Box((4,), (9,))])
    [4, 5]
    """
    if len(boxes) <= FEW:
        return [box.volume for box in boxes]
    starts, stops = _boxes(boxes).corners
    volumes: list[int] = np.maximum(stops - starts, 0).prod(axis=1).tolist()
    return volumes


@dataclass(frozen=True, slots=True)
class Sorted:
    """Boxes ready to be asked which of them meet another one."""

    boxes: Boxes
    axis: int
    starts: tuple[int, ...]
    widest: int

    def meeting(self, box: Box) -> Iterator[tuple[Box, Box]]:
        """(one of the boxes, its intersection with `box`) for all that meet it, in order along the sorted axis."""
        if not box.starts:  # scalars: of no axes, and all alike
            yield from ((each, box) for each in self.boxes)
            return
        first = bisect_left(self.starts, box[0][self.axis] - self.widest + 1)
        last = bisect_left(self.starts, box[1][self.axis])
        for each in self.boxes[first:last]:
            common = each.intersect(box)
            if common:
                yield each, common

    def neighbours(self, starts: Numbers, stops: Numbers) -> tuple[Numbers, Numbers]:
        """The range of `boxes` (first, last) outside which none meets a box, for many boxes: a row of starts and stops each."""
        if not self.starts:
            return np.zeros(len(starts), np.int64), np.full(len(starts), len(self.boxes))
        first = np.searchsorted(self.starts, starts[:, self.axis] - self.widest + 1)
        return first, np.maximum(first, np.searchsorted(self.starts, stops[:, self.axis]))


def sort_boxes(boxes: Sequence[Box]) -> Sorted:
    """The boxes sorted along the axis that has the most different starts."""
    rank = len(boxes[0][0]) if boxes else 0
    cuts = [len({box[0][axis] for box in boxes}) for axis in range(rank)]
    axis = cuts.index(max(cuts)) if cuts else 0
    if not rank:
        return Sorted(Boxes(boxes), 0, (), 1)
    ordered = sorted(boxes, key=lambda box: (box[0][axis], box))
    widest = max(box[1][axis] - box[0][axis] for box in boxes)
    return Sorted(Boxes(ordered), axis, tuple([box[0][axis] for box in ordered]), max(1, widest))


def covered_volumes(wanted: Sequence[Box], have: Sequence[Box]) -> list[int]:
    """For each wanted box, how many elements it shares with the boxes `have`, added up over these.

    All boxes at once, in numpy: the proof of a trillion parameters is half a million intersections.

    >>> covered_volumes([Box((0,), (4,)), Box((4,), (8,))], [Box((0,), (3,)), Box((3,), (6,))])
    [4, 2]
    """
    if len(wanted) * len(have) <= FEW:
        return [sum(common.volume for each in have if (common := box.intersect(each))) for box in wanted]
    index = _boxes(have).in_order
    starts, stops = index.boxes.corners
    wanted_starts, wanted_stops = _boxes(wanted).corners
    first, last = index.neighbours(wanted_starts, wanted_stops)
    # One row for each pair of a wanted box and a box that may meet it.
    pair = np.repeat(np.arange(len(wanted)), last - first)
    other = np.arange(len(pair)) - np.repeat(np.cumsum(last - first) - last, last - first)
    sides = np.minimum(wanted_stops[pair], stops[other]) - np.maximum(wanted_starts[pair], starts[other])
    totals = np.zeros(len(wanted), np.int64)
    np.add.at(totals, pair, np.maximum(sides, 0).prod(axis=1))
    shared: list[int] = totals.tolist()
    return shared


def first_overlap(boxes: Sequence[Box]) -> tuple[Box, Box] | None:
    """Two of the boxes that meet; None if all are disjoint."""
    boxes = _boxes(boxes)
    if covered_volumes(boxes, boxes) == volumes(boxes):
        return None  # each meets itself alone
    for box in boxes.in_order.boxes:
        for other, _ in boxes.in_order.meeting(box):
            if other is not box:
                return box, other
    return None


def _boxes(boxes: Sequence[Box]) -> Boxes:
    return boxes if isinstance(boxes, Boxes) else Boxes(boxes)


def missing_part(wanted: Box, have: Sorted) -> Box | None:
    """A box inside `wanted` that none of the disjoint boxes `have` covers; None if they cover all of it.

    >>> missing_part(Box((0,), (8,)), sort_boxes([Box((0,), (6,))]))
    Box(starts=(6,), stops=(8,))
    """
    covered = [common for _, common in have.meeting(wanted)]
    if sum(common.volume for common in covered) == wanted.volume:
        return None
    return first_gap(wanted, covered)


def first_gap(wanted: Box, covered: Sequence[Box]) -> Box | None:
    """A box inside `wanted` that none of the boxes covers, which may overlap; None if together they cover all of it.

    >>> first_gap(Box((0,), (8,)), [Box((0,), (4,)), Box((2,), (7,))])
    Box(starts=(7,), stops=(8,))
    """
    left = [wanted]
    for hole in covered:
        left = [piece for box in left for piece in _subtract(box, hole)]
    return left[0] if left else None


def _subtract(box: Box, hole: Box) -> list[Box]:
    common = box.intersect(hole)
    if common is None:
        return [box]
    pieces: list[Box] = []
    starts, stops = list(box.starts), list(box.stops)
    for axis in range(len(starts)):
        if starts[axis] < common.starts[axis]:
            pieces.append(Box(tuple(starts), tuple(stops)).along(axis, starts[axis], common.starts[axis]))
            starts[axis] = common.starts[axis]
        if common.stops[axis] < stops[axis]:
            pieces.append(Box(tuple(starts), tuple(stops)).along(axis, common.stops[axis], stops[axis]))
            stops[axis] = common.stops[axis]
    return pieces


def shown_box(axes: Sequence[str], box: Box) -> str:
    """A box in words.

    >>> shown_box(("vocab", "hidden"), Box((0, 4), (2, 8)))
    '[vocab 0:2, hidden 4:8]'
    """
    return "[" + ", ".join(f"{axis} {start}:{stop}" for axis, start, stop in zip(axes, *box, strict=True)) + "]"
