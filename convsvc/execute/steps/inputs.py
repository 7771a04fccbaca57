"""Lays the source views of a tile out in the input buffer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convsvc.execute.steps.alignment import agreeing
from convsvc.execute.steps.decoding import Decoding, lay_decoding
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
        part = lay_out([views[number] for number in members], size_of(stored.dtype), READ_SLACK)
        start = agreeing_start(stored, part.ranges[0], start)
        # What is decoded has room to grow between its runs.
        ranges = part.ranges if stored.scale is None else [run for each in part.ranges for run in each.each()]
        reads += [_read(stored, each, start) for each in ranges]
        itemsize = size_of(stored.value_dtype)
        for number, spot in zip(members, part.spots, strict=True):
            spots[number] = BufferSpot(start + spot.at * itemsize, spot.strides, stored.value_dtype, tensor)
        after = _aligned(start + part.count * itemsize)
        if stored.scale is not None:
            scales = tensors[stored.scale.tensor]
            decoding = lay_decoding(tensor, stored, scales, ranges, start, after)
            reads.append(Read(scales.file, scales.file_offset + decoding.scales_from, decoding.scales_bytes, after))
            decodings.append(decoding)
            after = _aligned(after + decoding.scales_bytes)
        start = after
    reads.sort(key=lambda read: (read.file, read.file_offset))
    return Reading(tuple(reads), tuple(spots[number] for number in range(len(views))), start, tuple(decodings))


def _read(stored: PlannedTensor, each: Range, start: int) -> Read:
    """A range goes to the end of its room: what is decoded in place grows towards it and never overtakes it."""
    itemsize, room = size_of(stored.dtype), size_of(stored.value_dtype)
    at = start + each.at * room + each.count * (room - itemsize)
    size_bytes, file_offset = each.count * itemsize, stored.file_offset + each.start * itemsize
    return Read(stored.file, file_offset, size_bytes, at, each.times, each.step * itemsize)


def agreeing_start(stored: PlannedTensor, first: Range, start: int) -> int:
    """Where a part of a buffer is put, so that its first range can go around the page cache and its elements are aligned."""
    read, itemsize = _read(stored, first, start), size_of(stored.value_dtype)
    shift = agreeing(read.start, read.file_offset, read.size_bytes, itemsize) - read.start
    return start if shift % itemsize else start + shift


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _by_tensor(views: Sequence[View]) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = {}
    for number, view in enumerate(views):
        grouped.setdefault(view.places[0].tensor, []).append(number)
    return grouped
