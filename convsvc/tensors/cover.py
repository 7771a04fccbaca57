"""The proof that boxes cover boxes exactly: in bounds, disjoint, volumes add up. Pure.

Boxes are pairs (starts, stops) in one logical tensor's coordinates, half open. Matching sorts by an axis along which the boxes are
cut and looks only at neighbours, so it is near linear in the number of boxes and overlaps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Box = tuple[tuple[int, ...], tuple[int, ...]]

# Up to so many boxes, or pairs of them, one by one is faster than numpy: most tensors lie in one box or a few.
FEW = 16


def volume(box: Box) -> int:
    """Elements in a box.

    >>> volume(((0, 2), (3, 4)))
    6
    """
    return prod(max(0, stop - start) for start, stop in zip(*box, strict=True))


def volumes(boxes: Sequence[Box]) -> list[int]:
    """`volume` of each, all at once.

    >>> volumes([((0,), (4,)), ((4,), (9,))])
    [4, 5]
    """
    if len(boxes) <= FEW:
        return list(map(volume, boxes))
    starts, stops = _corners(boxes)
    return list(map(int, np.maximum(stops - starts, 0).prod(axis=1)))


def intersect(one: Box, other: Box) -> Box | None:
    """The box both hold; None where they do not meet.

    >>> intersect(((0, 0), (6, 4)), ((4, 0), (8, 4)))
    ((4, 0), (6, 4))
    """
    starts = tuple(map(max, one[0], other[0]))
    stops = tuple(map(min, one[1], other[1]))
    return None if any(a >= b for a, b in zip(starts, stops, strict=True)) else (starts, stops)


@dataclass(frozen=True, slots=True)
class Sorted:
    """Boxes ready to be asked which of them meet another one."""

    boxes: tuple[Box, ...]
    axis: int
    starts: tuple[int, ...]
    widest: int

    def meeting(self, box: Box) -> Iterator[tuple[Box, Box]]:
        """(one of the boxes, its intersection with `box`) for all that meet it, in order along the sorted axis."""
        first = bisect_left(self.starts, box[0][self.axis] - self.widest + 1)
        last = bisect_left(self.starts, box[1][self.axis])
        for each in self.boxes[first:last]:
            common = intersect(each, box)
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
        return Sorted(tuple(boxes), 0, (), 1)
    ordered = sorted(boxes, key=lambda box: (box[0][axis], box))
    widest = max(box[1][axis] - box[0][axis] for box in boxes)
    return Sorted(tuple(ordered), axis, tuple(box[0][axis] for box in ordered), max(1, widest))


def covered_volumes(wanted: Sequence[Box], have: Sequence[Box]) -> list[int]:
    """For each wanted box, how many elements it shares with the boxes `have`, added up over these.

    All boxes at once, in numpy: the proof of a trillion parameters is half a million intersections.

    >>> covered_volumes([((0,), (4,)), ((4,), (8,))], [((0,), (3,)), ((3,), (6,))])
    [4, 2]
    """
    if len(wanted) * len(have) <= FEW:
        return [sum(volume(common) for each in have if (common := intersect(box, each))) for box in wanted]
    index = sort_boxes(have)
    starts, stops = _corners(index.boxes)
    wanted_starts, wanted_stops = _corners(wanted)
    first, last = index.neighbours(wanted_starts, wanted_stops)
    # One row for each pair of a wanted box and a box that may meet it.
    pair = np.repeat(np.arange(len(wanted)), last - first)
    other = np.arange(len(pair)) - np.repeat(np.cumsum(last - first) - last, last - first)
    sides = np.minimum(wanted_stops[pair], stops[other]) - np.maximum(wanted_starts[pair], starts[other])
    totals = np.zeros(len(wanted), np.int64)
    np.add.at(totals, pair, np.maximum(sides, 0).prod(axis=1))
    return list(map(int, totals))


def first_overlap(boxes: Sequence[Box]) -> tuple[Box, Box] | None:
    """Two of the boxes that meet; None if all are disjoint."""
    if covered_volumes(boxes, boxes) == volumes(boxes):
        return None  # each meets itself alone
    index = sort_boxes(boxes)
    for box in index.boxes:
        for other, _ in index.meeting(box):
            if other is not box:
                return box, other
    return None


def _corners(boxes: Sequence[Box]) -> tuple[Numbers, Numbers]:
    """The starts and the stops of all boxes, a row a box."""
    both = np.array(boxes, np.int64).reshape(len(boxes), 2, -1)
    return both[:, 0], both[:, 1]


def missing_part(wanted: Box, have: Sorted) -> Box | None:
    """A box inside `wanted` that none of the disjoint boxes `have` covers; None if they cover all of it.

    >>> missing_part(((0,), (8,)), sort_boxes([((0,), (6,))]))
    ((6,), (8,))
    """
    covered = [common for _, common in have.meeting(wanted)]
    if sum(map(volume, covered)) == volume(wanted):
        return None
    return first_gap(wanted, covered)


def first_gap(wanted: Box, covered: Sequence[Box]) -> Box | None:
    """A box inside `wanted` that none of the boxes covers, which may overlap; None if together they cover all of it.

    >>> first_gap(((0,), (8,)), [((0,), (4,)), ((2,), (7,))])
    ((7,), (8,))
    """
    left = [wanted]
    for hole in covered:
        left = [piece for box in left for piece in _subtract(box, hole)]
    return left[0] if left else None


def _subtract(box: Box, hole: Box) -> list[Box]:
    common = intersect(box, hole)
    if common is None:
        return [box]
    pieces: list[Box] = []
    starts, stops = list(box[0]), list(box[1])
    for axis in range(len(starts)):
        if starts[axis] < common[0][axis]:
            pieces.append((tuple(starts), (*stops[:axis], common[0][axis], *stops[axis + 1 :])))
            starts[axis] = common[0][axis]
        if common[1][axis] < stops[axis]:
            pieces.append(((*starts[:axis], common[1][axis], *starts[axis + 1 :]), tuple(stops)))
            stops[axis] = common[1][axis]
    return pieces


def shown_box(axes: Sequence[str], box: Box) -> str:
    """A box in words.

    >>> shown_box(("vocab", "hidden"), ((0, 4), (2, 8)))
    '[vocab 0:2, hidden 4:8]'
    """
    return "[" + ", ".join(f"{axis} {start}:{stop}" for axis, start, stop in zip(axes, *box, strict=True)) + "]"
