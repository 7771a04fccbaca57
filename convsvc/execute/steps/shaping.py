"""Which shape a tile has: as few and as long runs in the files as a buffer allows. Pure.

Cutting along the target's outermost axis keeps every write in one run; where the source is stored in another order its reads
then fall to pieces. So a box that is too large is halved again and again, each time along the axis which leaves the fewest
runs on both sides together. A plain move ends up cut along the outermost axis, a transpose along both.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from convsvc.plan.records import View

# A run longer than this costs nothing beside its bytes.
LONG_RUN = 128 << 10
# Against a read: a write is also checksummed and noted down.
WRITE_WEIGHT = 2


def tile_shape(shape: tuple[int, ...], order: tuple[int, ...], most: int, reads: Sequence[View], writes: Sequence[View]) -> tuple[int, ...]:
    """The shape of tiles of at most `most` elements of a box of this shape.

    >>> from convsvc.plan.records import Place
    >>> rows, columns = (View((0, 0), (4096, 4096), strides, (Place(0, 0),)) for strides in ((4096, 1), (1, 4096)))
    >>> tile_shape((4096, 4096), (0, 1), 1 << 20, [rows], [rows])
    (256, 4096)
    >>> tile_shape((4096, 4096), (0, 1), 1 << 20, [columns], [rows])
    (512, 2048)
    """
    # Views of one tensor are much alike: the largest stand for all.
    read, write = max(reads, key=_volume, default=None), max(writes, key=_volume, default=None)

    def runs(candidate: tuple[int, ...]) -> float:
        return (1 / _run(read, candidate) if read else 0) + (WRITE_WEIGHT / _run(write, candidate) if write else 0)

    while prod(shape) > most:
        # `min` takes the first of equals, the target's outermost axis.
        shape = min((_halved(shape, axis) for axis in order if shape[axis] > 1), key=runs)
    return shape


def run_in_tile(views: Sequence[View], shape: tuple[int, ...]) -> int:
    """Elements that lie side by side in the stored tensor, of the largest view's part in a tile of this shape."""
    return _run(max(views, key=_volume), shape)


def _volume(view: View) -> int:
    return view.volume


def _halved(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], -(-shape[axis] // 2), *shape[axis + 1 :])


def _run(view: View, shape: tuple[int, ...]) -> int:
    """Elements that lie side by side in the stored tensor, of the view's part in a tile of this shape."""
    run = 1
    for stride, axis in sorted((stride, axis) for axis, stride in enumerate(view.strides) if view.stops[axis] - view.starts[axis] > 1):
        if stride != run:
            break
        length = view.stops[axis] - view.starts[axis]
        run *= min(length, shape[axis])
        if shape[axis] < length:
            break
    return min(run, LONG_RUN)
