"""A box of a logical tensor's coordinates, and its arithmetic. Pure.

What is one stored tensor's, one rank's, one tile's or one buffer's part of a tensor is a box; whatever intersects or cuts does it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from operator import lt, sub
from typing import NamedTuple


class Box(NamedTuple):
    """Half open: from `starts` to before `stops`, one number an axis. A tuple, as there are very many."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(sub, self.stops, self.starts))

    @property
    def volume(self) -> int:
        """Elements in it; 0 where it ends before it starts.

        >>> Box((0, 2), (3, 4)).volume, Box((5,), (3,)).volume
        (6, 0)
        """
        return prod([max(0, length) for length in map(sub, self.stops, self.starts)])

    def intersect(self, other: Box) -> Box | None:
        """The box both hold; None where they do not meet.

        >>> Box((0, 0), (6, 4)).intersect(Box((4, 0), (8, 4)))
        Box(starts=(4, 0), stops=(6, 4))
        """
        starts, stops = tuple(map(max, self.starts, other.starts)), tuple(map(min, self.stops, other.stops))
        return Box(starts, stops) if all(map(lt, starts, stops)) else None

    def along(self, axis: int, start: int, stop: int) -> Box:
        """The same box with another extent along one axis."""
        return Box(
            (*self.starts[:axis], start, *self.starts[axis + 1 :]),
            (*self.stops[:axis], stop, *self.stops[axis + 1 :]),
        )

    def cut(self, order: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[Box]:
        """The box in pieces of `shape` (smaller at the ends), the first axis in `order` outermost.

        >>> [tuple(piece) for piece in Box((0, 0), (4, 6)).cut((0, 1), (3, 6))]
        [((0, 0), (3, 6)), ((3, 0), (4, 6))]
        """
        if not order:
            yield self
            return
        axis = order[0]
        for start in range(self.starts[axis], self.stops[axis], shape[axis]):
            yield from self.along(axis, start, min(start + shape[axis], self.stops[axis])).cut(order[1:], shape)

    def halve(self, order: tuple[int, ...]) -> tuple[Box, Box] | None:
        """Two halves along the first axis in `order` that is longer than one; None for a single element."""
        for axis in order:
            start, stop = self.starts[axis], self.stops[axis]
            if stop - start > 1:
                middle = (start + stop) // 2
                return self.along(axis, start, middle), self.along(axis, middle, stop)
        return None
