"""Lays the source views of a tile out in the input buffer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convsvc.execute.steps.alignment import agreeing
from convsvc.execute.steps.decoding import Decoding, Lies, cut_rectangles, lies, needed, wanted
from convsvc.execute.steps.regions import Range, lay_out
from convsvc.plan.records import PlannedTensor, View
from convsvc.tensors.dtypes import size_of

# Source bytes read / needed, above which runs are read one by one.
READ_SLACK = 1.05
# Every tensor's part of a buffer starts at a multiple of this, so that any element type is aligned.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Read:
    """`size_bytes` from `file_offset` of a source file to `start` in the input buffer; `times` such runs, `step_bytes` apart in the file.

    In the buffer the runs follow on each other.
    """

    file: int
    file_offset: int
    size_bytes: int
    start: int
    times: int = 1
    step_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.size_bytes * self.times


@dataclass(frozen=True, slots=True)
class BufferSpot:
    """A view in a buffer: its first element's byte, its strides in elements, its element type.

    `tensor` is the source's whose values they are; -1 in an output buffer.
    """

    start: int
    strides: tuple[int, ...]
    dtype: str
    tensor: int = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read into `size_bytes` of input buffer; `spots[i]` is where the i-th view lies once `decodings` are done there.

    `computed`: the spots are in a tile that is computed from the input buffer, not in the buffer.
    """

    reads: tuple[Read, ...]
    spots: tuple[BufferSpot, ...]
    size_bytes: int
    decodings: tuple[Decoding, ...] = ()
    computed: bool = False


def lay_reads(views: Sequence[View], tensors: Sequence[PlannedTensor], start: int = 0) -> Reading:
    """Reads for all views, from byte `start` of the input buffer on; each view is read from its first place."""
    reads: list[Read] = []
    spots: dict[int, BufferSpot] = {}
    decodings: list[Decoding] = []
    for tensor, members in _by_tensor(views).items():
        stored = tensors[tensor]
        itemsize = size_of(stored.value_dtype)
        part = lay_out([views[number] for number in members], itemsize, READ_SLACK)
        if stored.coded is None:
            start = agreeing_start(stored, part.ranges[0], start)
            reads += [_read(stored, each, start) for each in part.ranges]
        for number, spot in zip(members, part.spots, strict=True):
            spots[number] = BufferSpot(start + spot.at * itemsize, spot.strides, stored.value_dtype, tensor)
        after = _aligned(start + part.count * itemsize)
        if stored.coded is not None:
            decoding, further, after = lay_decoding(tensor, tensors, part.ranges, start, after)
            reads += further
            decodings.append(decoding)
        start = after
    reads.sort(key=lambda read: (read.file, read.file_offset))
    return Reading(tuple(reads), tuple(spots[number] for number in range(len(views))), start, tuple(decodings))


def lay_decoding(
    tensor: int, tensors: Sequence[PlannedTensor], ranges: Sequence[Range], start: int, after: int
) -> tuple[Decoding, list[Read], int]:
    """The decoding of these ranges of a quantised tensor, what is read for it, and the first byte of the buffer behind that.

    Values shall lie from byte `start` on, pieces lie from byte `after` on.
    """
    stored = tensors[tensor]
    assert stored.coded is not None, "only what is quantised is decoded"
    form = stored.coded.form
    rects = cut_rectangles(ranges, form.columns)
    reads: list[Read] = []
    laid: list[list[Lies]] = []
    for number, regions in enumerate(needed(form, rects)):
        piece = tensors[stored.coded.pieces[number - 1]] if number else stored
        laid.append([])
        for each in regions:
            run = wanted(form.grids[number], number, each)
            file_offset = piece.file_offset + run.data_offset
            after = agreeing(after, file_offset, run.size_bytes, 1)
            reads.append(Read(piece.file, file_offset, run.size_bytes, after, run.times, run.step_bytes))
            laid[-1].append(Lies(each, after))
            after = _aligned(after + run.size_bytes * run.times)
    return Decoding(tensor, stored.name, form, stored.coded.dtype, start, rects, tuple(lies(form, rects, laid))), reads, after


def _read(stored: PlannedTensor, each: Range, start: int) -> Read:
    itemsize = size_of(stored.dtype)
    file_offset = stored.file_offset + each.start * itemsize
    return Read(stored.file, file_offset, each.count * itemsize, start + each.at * itemsize, each.times, each.step * itemsize)


def agreeing_start(stored: PlannedTensor, first: Range, start: int) -> int:
    """Where a part of a buffer is put, so that its first range can go around the page cache and its elements are aligned."""
    read, itemsize = _read(stored, first, start), size_of(stored.dtype)
    return start + agreeing(read.start, read.file_offset, read.size_bytes, itemsize) - read.start


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _by_tensor(views: Sequence[View]) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = {}
    for number, view in enumerate(views):
        grouped.setdefault(view.places[0].tensor, []).append(number)
    return grouped
