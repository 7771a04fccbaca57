"""Does steps: fills an input buffer, moves elements to the output buffer, hands out what is to be written.

While one step is written, the next one is copied and the one after it is read, each by a thread of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from convsvc.execute.dequantising import dequantise
from convsvc.execute.direct import aligned_bytes
from convsvc.execute.kernels import view_bits
from convsvc.execute.steps import Copy, Step, Write
from convsvc.execute.transforms import cast_copy, merge_lora

Bytes = npt.NDArray[np.uint8]

# One step is read, one is copied, one is written.
SLOTS = 3


class RangeReader(Protocol):
    """Where ranges of source files are read; `io.Reader` is one."""

    def read_into(self, file: int, file_offset: int, target: memoryview) -> None: ...


@dataclass(slots=True)
class Slot:
    """The buffers of one step, reused by later ones; each grows to the largest step's need."""

    taken: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))
    given: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))


class Tiles:
    """The buffers of a task, and the threads which work on them: one reads, one copies, the caller's writes."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader
        self._slots = [Slot() for _ in range(SLOTS)]

    def produce(self, steps: Iterable[Step]) -> Generator[tuple[Write, memoryview], None, None]:
        """Each write of each step with its bytes, which are valid until the next one is asked for.

        Close it before the reader: a thread may still be reading.
        """
        with ThreadPoolExecutor(1, "convsvc-read") as reading, ThreadPoolExecutor(1, "convsvc-copy") as copying:
            under_way: deque[tuple[Step, Slot, Future[Bytes]]] = deque()
            for number, step in enumerate(steps):
                if len(under_way) == SLOTS:
                    yield from _writes(*under_way.popleft())
                slot = self._slots[number % SLOTS]
                filled = reading.submit(self._fill, slot, step)
                under_way.append((step, slot, copying.submit(_copy, slot, step, filled)))
            while under_way:
                yield from _writes(*under_way.popleft())

    def _fill(self, slot: Slot, step: Step) -> Bytes:
        buffer = slot.taken = _at_least(slot.taken, step.input_bytes)
        for read in step.reads:
            self._reader.read_into(read.file, read.file_offset, buffer.data[read.start : read.start + read.size_bytes])
        for decoding in step.decodings:
            dequantise(decoding, buffer)
        return buffer


def _copy(slot: Slot, step: Step, filled: Future[Bytes]) -> Bytes:
    taken = filled.result()
    slot.given = _at_least(slot.given, step.output_bytes)
    source = taken if step.merge is None else merge_lora(step.merge, taken).reshape(-1).view(np.uint8)
    for copy in step.copies:
        _do(copy, source, slot.given)
    return taken


def _writes(step: Step, slot: Slot, copied: Future[Bytes]) -> Iterator[tuple[Write, memoryview]]:
    taken = copied.result()
    for write in step.writes:
        data = taken.data if write.direct else slot.given.data
        yield write, data[write.start : write.start + write.size_bytes]


def _at_least(buffer: Bytes, size_bytes: int) -> Bytes:
    return buffer if buffer.size >= size_bytes else aligned_bytes(size_bytes)


def _do(copy: Copy, source: Bytes, target: Bytes) -> None:
    taken = view_bits(source, copy.source_start, copy.shape, copy.source_strides, copy.source_dtype)
    given = view_bits(target, copy.target_start, copy.shape, copy.target_strides, copy.target_dtype)
    cast_copy(given, taken, copy.source_dtype, copy.target_dtype)
