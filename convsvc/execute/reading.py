"""Lays the source views of a tile out in the input buffer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convsvc.execute.regions import lay_out
from convsvc.plan.records import PlannedTensor, View
from convsvc.tensors.dtypes import size_of

# Source bytes read / needed, above which runs are read one by one.
READ_SLACK = 1.05
# Every tensor's part of a buffer starts at a multiple of this, so that any element type is aligned.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Read:
    """`size_bytes` from `file_offset` of a source file to `start` in the input buffer."""

    file: int
    file_offset: int
    size_bytes: int
    start: int


@dataclass(frozen=True, slots=True)
class BufferSpot:
    """A view in a buffer: its first element's byte, its strides in elements, its element type."""

    start: int
    strides: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read into `size_bytes` of input buffer; `spots[i]` is where the i-th view lies.

    `computed`: the spots are in a tile that is computed from the input buffer, not in the buffer.
    """

    reads: tuple[Read, ...]
    spots: tuple[BufferSpot, ...]
    size_bytes: int
    computed: bool = False


def lay_reads(views: Sequence[View], tensors: Sequence[PlannedTensor], start: int = 0) -> Reading:
    """Reads for all views, from byte `start` of the input buffer on; each view is read from its first place."""
    reads: list[Read] = []
    spots: dict[int, BufferSpot] = {}
    for tensor, members in _by_tensor(views).items():
        stored = tensors[tensor]
        itemsize = size_of(stored.dtype)
        part = lay_out([views[number] for number in members], itemsize, READ_SLACK)
        for each in part.ranges:
            file_offset = stored.file_offset + each.start * itemsize
            reads.append(Read(stored.file, file_offset, each.count * itemsize, start + each.at * itemsize))
        for number, spot in zip(members, part.spots, strict=True):
            spots[number] = BufferSpot(start + spot.at * itemsize, spot.strides, stored.dtype)
        start += -(-part.count * itemsize // ALIGNMENT) * ALIGNMENT
    reads.sort(key=lambda read: (read.file, read.file_offset))
    return Reading(tuple(reads), tuple(spots[number] for number in range(len(views))), start)


def _by_tensor(views: Sequence[View]) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = {}
    for number, view in enumerate(views):
        grouped.setdefault(view.places[0].tensor, []).append(number)
    return grouped
