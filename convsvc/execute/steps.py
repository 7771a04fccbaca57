"""Compiles one transfer into steps that fit a buffer: what to read, what to copy, what to write where. Pure.

A step is one tile of the logical tensor. Its reads fill an input buffer, its copies go from there to an output buffer, its
writes take ranges of the output buffer (or of the input buffer itself, where the copy would be one straight run) to every
place that wants them. Buffer offsets are in bytes; shapes and strides in elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

from convsvc.execute.decoding import Decoding
from convsvc.execute.direct import BLOCK_BYTES, LEAST_BYTES, agreeing
from convsvc.execute.matching import Box, ViewIndex, bounding_box, cut_box, halve
from convsvc.execute.merges import MERGE_BYTES_PER_ELEMENT, Merge, compile_merge
from convsvc.execute.reading import ALIGNMENT, BufferSpot, Read, Reading, lay_reads
from convsvc.execute.regions import Range, lay_out
from convsvc.execute.shaping import tile_shape
from convsvc.execute.strides import merge_axes, shift
from convsvc.plan.records import Place, PlannedTensor, Transfer, View
from convsvc.tensors.dtypes import size_of

# A copy this long is written from the input buffer as it lies there, even if it is only a part of a range of the target.
LONG_RUN_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Tensors:
    """The stored tensors that a transfer's places number: of the source and of the target."""

    source: Sequence[PlannedTensor]
    target: Sequence[PlannedTensor]


@dataclass(frozen=True, slots=True)
class Copy:
    """One strided copy from the input buffer (or from the merged tile) to the output buffer."""

    shape: tuple[int, ...]
    source_start: int
    source_strides: tuple[int, ...]
    source_dtype: str
    target_start: int
    target_strides: tuple[int, ...]
    target_dtype: str

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * size_of(self.target_dtype)

    @property
    def is_straight(self) -> bool:
        """Whether it moves one run of bytes unchanged."""
        runs = not self.shape or (len(self.shape) == 1 and self.source_strides == self.target_strides == (1,))
        return runs and self.source_dtype == self.target_dtype


@dataclass(frozen=True, slots=True)
class WritePlace:
    """Target tensor number and the byte in it."""

    tensor: int
    data_offset: int


@dataclass(frozen=True, slots=True)
class Write:
    """`size_bytes` from `start` of the output buffer (`direct`: of the input buffer) go to every place."""

    start: int
    size_bytes: int
    direct: bool
    places: tuple[WritePlace, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One tile: needs `input_bytes` and `output_bytes` of buffers, and what a merge computes in between.

    `decodings` are done in the input buffer once it is read.
    """

    reads: tuple[Read, ...]
    copies: tuple[Copy, ...]
    writes: tuple[Write, ...]
    input_bytes: int
    output_bytes: int
    merge: Merge | None = None
    decodings: tuple[Decoding, ...] = ()

    @property
    def buffer_bytes(self) -> int:
        return self.input_bytes + self.output_bytes + (self.merge.buffer_bytes if self.merge else 0)


def compile_steps(transfer: Transfer, tensors: Tensors, budget_bytes: int) -> Iterator[Step]:
    """The transfer's steps, each of at most `budget_bytes` of buffers (or one element), in the target's order.

    Tiles are cut along `transfer.order` first, so that a tile's region in a target that is stored in that order is one range;
    where the source is stored in another order, as `shaping.tile_shape` says. Fills need no step: a new file is zero.
    """
    if transfer.writes:
        yield from _Compiler(transfer, tensors, budget_bytes).steps()


class _Compiler:
    """What compiling the tiles of one transfer has in common."""

    def __init__(self, transfer: Transfer, tensors: Tensors, budget_bytes: int) -> None:
        self._transfer = transfer
        self._tensors = tensors
        self._budget_bytes = budget_bytes
        self._reads = ViewIndex(transfer.reads)
        self._writes = ViewIndex(transfer.writes)

    def steps(self) -> Iterator[Step]:
        box, order = bounding_box(self._transfer.writes), self._transfer.order
        shape = tile_shape(box.shape, order, self._tile_volume(), self._transfer.reads, self._transfer.writes)
        for tile in cut_box(box, order, shape):
            yield from self._steps_of(tile)

    def _tile_volume(self) -> int:
        """Elements of a tile that fit, if reads and writes are spread evenly; where they are not, tiles are halved later."""
        transfer, tensors = self._transfer, self._tensors
        read = max((size_of(tensors.source[view.places[0].tensor].value_dtype) for view in transfer.reads), default=1)
        wanted = sum(view.volume * size_of(tensors.target[view.places[0].tensor].dtype) for view in transfer.writes)
        merged = MERGE_BYTES_PER_ELEMENT if transfer.transform else 0
        return max(1, int(self._budget_bytes / (read + merged + wanted / bounding_box(transfer.writes).volume)))

    def _steps_of(self, tile: Box) -> Iterator[Step]:
        step = self._compile_tile(tile)
        if step is None:
            return
        halves = halve(tile, self._transfer.order) if step.buffer_bytes > self._budget_bytes else None
        if halves is None:
            yield step
            return
        for half in halves:
            yield from self._steps_of(half)

    def _compile_tile(self, tile: Box) -> Step | None:
        wanted = list(self._writes.meeting(tile))
        if not wanted:
            return None
        box, source = bounding_box(wanted), self._tensors.source
        held = list(self._reads.meeting(box))
        reading = lay_reads(held, source)
        merge = None
        if self._transfer.transform is not None:
            merge = compile_merge(box, self._transfer.transform, held, reading, source)
            held, reading = [merge.view], merge.reading
        copies, writes, output = _lay_writes(wanted, _Held(held, reading), self._tensors.target)
        return Step(reading.reads, copies, writes, reading.size_bytes, output, merge, reading.decodings)


class _Held:
    """The source views of a tile, found by box, with where they lie in the input buffer."""

    def __init__(self, views: list[View], reading: Reading) -> None:
        self._views = views
        self._index = ViewIndex([View(v.starts, v.stops, v.strides, (Place(n, 0),)) for n, v in enumerate(views)])
        self.reading = reading

    def overlaps(self, view: View) -> Iterator[tuple[View, BufferSpot]]:
        """Each overlap with `view`, and its first element's spot."""
        for overlap in self._index.meeting(Box(view.starts, view.stops)):
            number = overlap.places[0].tensor
            spot = self.reading.spots[number]
            moved = shift(overlap.starts, self._views[number].starts, spot.strides)
            yield overlap, BufferSpot(spot.start + moved * size_of(spot.dtype), spot.strides, spot.dtype)


def _lay_writes(wanted: list[View], held: _Held, target: Sequence[PlannedTensor]) -> tuple[tuple[Copy, ...], tuple[Write, ...], int]:
    """Copies and writes for all wanted views, and the bytes of output buffer they take."""
    copies: list[Copy] = []
    writes: list[Write] = []
    output = 0
    for group in _same_places(wanted):
        dtype = target[group[0].places[0].tensor].dtype
        itemsize = size_of(dtype)
        part = lay_out(group, itemsize, slack=1.0)
        before, output = output, _agreeing(target[group[0].places[0].tensor], part.ranges[0], output)
        made = [
            copy
            for view, spot in zip(group, part.spots, strict=True)
            for copy in _copies_to(view, BufferSpot(output + spot.at * itemsize, spot.strides, dtype), held)
        ]
        if len(part.ranges) == 1 and _go_direct(made, held.reading):
            writes += [_direct(copy, group[0], part.ranges[0].start, output) for copy in made]
            output = before
            continue
        writes += [_write(group[0], itemsize, r.start * itemsize, output + r.at * itemsize, r.count * itemsize) for r in part.ranges]
        copies += made
        output += -(-part.count * itemsize // ALIGNMENT) * ALIGNMENT
    return tuple(copies), tuple(writes), output


def _agreeing(tensor: PlannedTensor, first: Range, output: int) -> int:
    itemsize = size_of(tensor.dtype)
    return agreeing(output, tensor.file_offset + first.start * itemsize, first.count * itemsize, itemsize)


def _same_places(views: list[View]) -> list[list[View]]:
    """Views that lie in the same target tensors at the same distances from each other: they are written together."""

    def key(view: View) -> tuple[tuple[int, int], ...]:
        first = view.places[0].offset
        return tuple((place.tensor, place.offset - first) for place in view.places)

    return [list(group) for _, group in groupby(sorted(views, key=key), key=key)]


def _copies_to(view: View, there: BufferSpot, held: _Held) -> Iterator[Copy]:
    """The copies that fill one wanted view, which lies at `there` in the output buffer."""
    for overlap, spot in held.overlaps(view):
        here = shift(overlap.starts, view.starts, there.strides) * size_of(there.dtype)
        lengths = tuple(stop - start for start, stop in zip(overlap.starts, overlap.stops, strict=True))
        shape, source_strides, target_strides = merge_axes(lengths, spot.strides, there.strides)
        yield Copy(shape, spot.start, source_strides, spot.dtype, there.start + here, target_strides, there.dtype)


def _go_direct(copies: list[Copy], reading: Reading) -> bool:
    """Whether all copies are straight, and lie in the input buffer so that they can be written from there around the page cache."""
    if reading.computed or not all(copy.is_straight for copy in copies):
        return False
    if len(copies) > 1 and any(copy.size_bytes < LONG_RUN_BYTES for copy in copies):
        return False
    return all(copy.size_bytes < LEAST_BYTES or (copy.source_start - copy.target_start) % BLOCK_BYTES == 0 for copy in copies)


def _direct(copy: Copy, view: View, start: int, output: int) -> Write:
    """Writes a straight copy's run from the input buffer; `start` is the element at which the copies' range begins."""
    data_start = start * size_of(copy.target_dtype) + copy.target_start - output
    write = _write(view, size_of(copy.target_dtype), data_start, copy.source_start, copy.size_bytes)
    return Write(write.start, write.size_bytes, True, write.places)


def _write(view: View, itemsize: int, data_start: int, start: int, size_bytes: int) -> Write:
    """`data_start` is the byte in the view's first place's tensor; the other places are at constant distances from it."""
    first = view.places[0].offset
    places = tuple(WritePlace(place.tensor, data_start + (place.offset - first) * itemsize) for place in view.places)
    return Write(start, size_bytes, False, places)
