"""Compiles the copies of a tile: what is read of each, and which elements of it are compared with those that are held. Pure.

A copy is read into a buffer of its own, piece by piece, and compared where the tile's own bytes lie in the input buffer: nothing is
read twice, and copies may be stored in other orders and other float types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convsvc.execute.steps.held import HeldViews
from convsvc.execute.steps.inputs import BufferSpot, Reading, lay_reads
from convsvc.execute.steps.matching import ViewIndex
from convsvc.execute.steps.shaping import tile_shape
from convsvc.plan.records import PlannedTensor, View
from convsvc.tensors.boxes import Box
from convsvc.tensors.dtypes import size_of

# A piece of a copy: long enough for a disk, and small beside the other buffers.
CHECK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A box (`starts`, `shape`, of the logical tensor) that lies at `here` in the input buffer and at `there` in the copy's.

    `held` is the view that was read, restricted to the tile; its only place is the stored tensor.
    """

    starts: tuple[int, ...]
    shape: tuple[int, ...]
    here: BufferSpot
    there: BufferSpot
    held: View


@dataclass(frozen=True, slots=True)
class Check:
    """One copy's part in a tile: laid out by `inputs` into a buffer of its own, then compared pair by pair.

    `name` is the logical tensor's, `copy` the view with its only place; `remedy` is what to do where it differs.
    """

    name: str
    copy: View
    reading: Reading
    pairs: tuple[Pair, ...]
    remedy: str = ""


def compile_checks(name: str, copies: ViewIndex, box: Box, held: HeldViews, tensors: Sequence[PlannedTensor], remedy: str) -> list[Check]:
    """The checks of all copies inside the box, each of about CHECK_BYTES at most."""
    return [
        Check(name, piece, reading, pairs, remedy)
        for view in copies.meeting(box)
        for place in view.places
        for piece, reading in _pieces(View(view.starts, view.stops, view.strides, (place,)), tensors)
        if (pairs := tuple(_pairs(piece, reading.spots[0], held)))
    ]


def _pieces(view: View, tensors: Sequence[PlannedTensor]) -> Iterator[tuple[View, Reading]]:
    """The view in pieces that fit, cut where it is longest in memory, with what is read of each."""
    order = tuple(sorted(range(len(view.strides)), key=lambda axis: -view.strides[axis]))
    box, volume = view.box, CHECK_BYTES // size_of(tensors[view.places[0].tensor].value_dtype)
    for piece in box.cut(order, tile_shape(box.shape, order, volume, (view,), ())):
        yield from _fitting(view, piece, order, tensors)


def _fitting(view: View, box: Box, order: tuple[int, ...], tensors: Sequence[PlannedTensor]) -> Iterator[tuple[View, Reading]]:
    piece = view.restricted(box)
    assert piece is not None, "a piece lies inside its view"
    reading = lay_reads([piece], tensors)
    # Half as much again: scales, alignment. What is read with its gaps can be far more.
    halves = box.halve(order) if reading.size_bytes > CHECK_BYTES * 3 // 2 else None
    if halves is None:
        yield piece, reading
        return
    for half in halves:
        yield from _fitting(view, half, order, tensors)


def _pairs(piece: View, there: BufferSpot, held: HeldViews) -> Iterator[Pair]:
    for overlap, here in held.overlaps(piece):
        lengths = tuple(stop - start for start, stop in zip(overlap.starts, overlap.stops, strict=True))
        moved = sum((a - b) * stride for a, b, stride in zip(overlap.starts, piece.starts, there.strides, strict=True))
        at = BufferSpot(there.start + moved * size_of(there.dtype), there.strides, there.dtype)
        yield Pair(overlap.starts, lengths, here, at, held.views[overlap.places[0].tensor])
