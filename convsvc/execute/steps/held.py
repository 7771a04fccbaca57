"""The source views of a tile, found by box, with where they lie in the input buffer. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from convsvc.execute.steps.inputs import BufferSpot, Reading
from convsvc.execute.steps.matching import ViewIndex
from convsvc.execute.steps.strides import shift
from convsvc.plan.records import Place, View
from convsvc.tensors.dtypes import size_of


class HeldViews:
    """The source views of a tile, found by box, with where they lie in the input buffer."""

    def __init__(self, views: list[View], reading: Reading) -> None:
        self.views = views
        self._index = ViewIndex([View(v.starts, v.stops, v.strides, (Place(n, 0),)) for n, v in enumerate(views)])
        self.reading = reading

    def overlaps(self, view: View) -> Iterator[tuple[View, BufferSpot]]:
        """Each overlap with `view`, and its first element's spot. The overlap's only place numbers the held view."""
        for overlap in self._index.meeting(view.box):
            number = overlap.places[0].tensor
            spot = self.reading.spots[number]
            moved = shift(overlap.starts, self.views[number].starts, spot.strides)
            yield overlap, BufferSpot(spot.start + moved * size_of(spot.dtype), spot.strides, spot.dtype, spot.tensor)
