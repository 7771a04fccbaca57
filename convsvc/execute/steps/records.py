"""Steps: what to read, what to copy, what to write where. Records only; `compiling` makes them, `pipeline` does them.

A step's reads fill an input buffer, its copies go from there to an output buffer, its writes take ranges of the output buffer
(or of the input buffer itself, where the copy would be one straight run) to every place that wants them. Most steps are one
tile of the logical tensor. Where a tile is large on one side, several steps share that side's buffer, see `Held`. Buffer offsets are in
bytes; shapes and strides in elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from convsvc.encodings.base import Form
from convsvc.execute.steps.checks import Check
from convsvc.execute.steps.decoding import Decoding, Lies
from convsvc.execute.steps.inputs import Read
from convsvc.execute.steps.merges import Merge
from convsvc.plan.records import PlannedTensor
from convsvc.tensors.dtypes import size_of


@dataclass(frozen=True, slots=True)
class Tensors:
    """The stored tensors that a transfer's places number: of the source and of the target."""

    source: Sequence[PlannedTensor]
    target: Sequence[PlannedTensor]


@dataclass(frozen=True, slots=True)
class Copy:
    """One strided copy from the input buffer (or from the merged tile) to the output buffer.

    `tensor` is the source's whose values they are.
    """

    shape: tuple[int, ...]
    source_start: int
    source_strides: tuple[int, ...]
    source_dtype: str
    target_start: int
    target_strides: tuple[int, ...]
    target_dtype: str
    tensor: int = -1

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
    """`size_bytes` from `start` of the output buffer (`direct`: of the input buffer) go to every place.

    With `times` > 1 there are so many runs, which follow on each other in the buffer and lie `step_bytes` apart in the tensor.
    """

    start: int
    size_bytes: int
    direct: bool
    places: tuple[WritePlace, ...]
    times: int = 1
    step_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.size_bytes * self.times

    def runs(self, place: WritePlace, data: memoryview) -> Iterator[tuple[WritePlace, memoryview]]:
        """Each run's place and bytes; `data` are all of them."""
        for number in range(self.times):
            start = number * self.size_bytes
            yield WritePlace(place.tensor, place.data_offset + number * self.step_bytes), data[start : start + self.size_bytes]


@dataclass(frozen=True, slots=True)
class Held:
    """One side's buffer is shared by a tile's steps, from the `first` to the `last`.

    "output": each step reads and copies a piece of the tile, the last one writes it. "input": the first one reads the tile,
    each step copies and writes a piece.
    """

    side: Literal["input", "output"]
    first: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Encode:
    """A dense tile at the beginning of the output buffer, [rows, columns] of `dtype`, to be made the pieces of its form.

    They lie from the bytes `starts` on; of a piece with -1 nothing is wanted of this tile. `name` is the stored tensor's, whose rows and
    columns the tile has from `row` and `column` on. `own`: where in the input buffer the pieces behind the codes lie that it was published
    with; without them new ones are made. `group`: whose largest number, measured before, all of the weight's scales follow from; -1: none.
    """

    name: str
    form: Form
    dtype: str
    rows: int
    columns: int
    starts: tuple[int, ...]
    row: int = 0
    column: int = 0
    own: tuple[Lies, ...] = ()
    group: int = -1


@dataclass(frozen=True, slots=True)
class Measure:
    """The dense tile at the beginning of the output buffer, `count` elements of `dtype`, of which the group's largest is to be known."""

    group: int
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class Step:
    """One tile, or a piece of one: needs `input_bytes` and `output_bytes` of buffers, and what a merge computes in between.

    `decodings` are done in the input buffer once it is read; then `checks` compare further copies with it. `encodes` are done in the output
    buffer once all copies are; what a step `measures` there is for the encodes of later ones.
    """

    reads: tuple[Read, ...]
    copies: tuple[Copy, ...]
    writes: tuple[Write, ...]
    input_bytes: int
    output_bytes: int
    merge: Merge | None = None
    decodings: tuple[Decoding, ...] = ()
    held: Held | None = None
    checks: tuple[Check, ...] = ()
    encodes: tuple[Encode, ...] = ()
    measures: tuple[Measure, ...] = ()

    @property
    def buffer_bytes(self) -> int:
        return self.input_bytes + self.output_bytes + (self.merge.buffer_bytes if self.merge else 0)
