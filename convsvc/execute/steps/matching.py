"""Which views meet a box, without asking all of them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from convsvc.plan.records import View
from convsvc.tensors.boxes import Box


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
            part = view.restricted(box)
            if part is not None:
                yield part

    def _near(self, box: Box) -> list[View]:
        if self._axis is None:
            return self._views  # a scalar has no axis to be cut along
        first = bisect_left(self._starts, box.starts[self._axis] - self._longest + 1)
        return self._views[first : bisect_left(self._starts, box.stops[self._axis])]
