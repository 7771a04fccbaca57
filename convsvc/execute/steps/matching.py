"""Which views meet a box, without asking all of them; and how a box is cut into tiles. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from convsvc.plan.records import View


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box of a logical tensor."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    @property
    def volume(self) -> int:
        return prod(self.shape)

    def along(self, axis: int, start: int, stop: int) -> Box:
        """The same box with another extent along one axis."""
        return Box(
            (*self.starts[:axis], start, *self.starts[axis + 1 :]),
            (*self.stops[:axis], stop, *self.stops[axis + 1 :]),
        )


def bounding_box(views: Sequence[View]) -> Box:
    """The smallest box around all views; there must be one at least."""
    starts = tuple(min(values) for values in zip(*(view.starts for view in views), strict=True))
    stops = tuple(max(values) for values in zip(*(view.stops for view in views), strict=True))
    return Box(starts, stops)


class ViewIndex:
    """Views sorted along the axis that tells most of them apart, so that those which meet a box are found by bisection."""

    def __init__(self, views: Sequence[View]) -> None:
        axes = range(len(views[0].starts)) if views else range(0)
        self._axis = max(axes, key=lambda axis: len({view.starts[axis] for view in views}), default=None)
        axis = self._axis
        self._views = list(views) if axis is None else sorted(views, key=lambda view: view.starts[axis])
        self._starts = [] if axis is None else [view.starts[axis] for view in self._views]
        self._longest = 0 if axis is None else max(view.stops[axis] - view.starts[axis] for view in views)

    def meeting(self, box: Box) -> Iterator[View]:
        """The parts of the views that lie inside the box."""
        for view in self._near(box):
            part = view.restricted(box.starts, box.stops)
            if part is not None:
                yield part

    def _near(self, box: Box) -> list[View]:
        if self._axis is None:
            return self._views  # a scalar has no axis to be cut along
        first = bisect_left(self._starts, box.starts[self._axis] - self._longest + 1)
        return self._views[first : bisect_left(self._starts, box.stops[self._axis])]


def cut_box(box: Box, order: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[Box]:
    """The box in pieces of `shape` (smaller at the ends), the first axis in `order` outermost.

    >>> [(b.starts, b.stops) for b in cut_box(Box((0, 0), (4, 6)), (0, 1), (3, 6))]
    [((0, 0), (3, 6)), ((3, 0), (4, 6))]
    """
    if not order:
        yield box
        return
    axis = order[0]
    for start in range(box.starts[axis], box.stops[axis], shape[axis]):
        piece = box.along(axis, start, min(start + shape[axis], box.stops[axis]))
        yield from cut_box(piece, order[1:], shape)


def halve(box: Box, order: tuple[int, ...]) -> tuple[Box, Box] | None:
    """Two halves along the first axis in `order` that is longer than one; None for a single element."""
    for axis in order:
        start, stop = box.starts[axis], box.stops[axis]
        if stop - start > 1:
            middle = (start + stop) // 2
            return box.along(axis, start, middle), box.along(axis, middle, stop)
    return None
