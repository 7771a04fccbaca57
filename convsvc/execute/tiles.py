"""Does steps: fills an input buffer, moves elements to the output buffer, hands out what is to be written.

While one step is copied and written, the next one is read by a thread, into a second input buffer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from convsvc.execute.dequantising import dequantise
from convsvc.execute.kernels import view_bits
from convsvc.execute.steps import Copy, Step, Write
from convsvc.execute.transforms import cast_copy, merge_lora

Bytes = npt.NDArray[np.uint8]


class RangeReader(Protocol):
    """Where ranges of source files are read; `io.Reader` is one."""

    def read_into(self, file: int, file_offset: int, target: memoryview) -> None: ...


class Tiles:
    """The buffers of a task, reused from step to step; each grows to the largest step's need."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader
        self._inputs = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self._output: Bytes = np.empty(0, np.uint8)

    def produce(self, steps: Iterable[Step]) -> Generator[tuple[Write, memoryview], None, None]:
        """Each write of each step with its bytes, which are valid until the next one is asked for.

        Close it before the reader: a thread may still be reading.
        """
        with ThreadPoolExecutor(1, "convsvc-read") as thread:
            ahead: tuple[Step, Future[Bytes]] | None = None
            for number, step in enumerate(steps):
                filled = thread.submit(self._fill, number % 2, step)
                if ahead is not None:
                    yield from self._finish(*ahead)
                ahead = step, filled
            if ahead is not None:
                yield from self._finish(*ahead)

    def _fill(self, which: int, step: Step) -> Bytes:
        buffer = self._inputs[which] = _at_least(self._inputs[which], step.input_bytes)
        for read in step.reads:
            self._reader.read_into(read.file, read.file_offset, buffer.data[read.start : read.start + read.size_bytes])
        for decoding in step.decodings:
            dequantise(decoding, buffer)
        return buffer

    def _finish(self, step: Step, filled: Future[Bytes]) -> Iterator[tuple[Write, memoryview]]:
        taken = filled.result()
        self._output = _at_least(self._output, step.output_bytes)
        source = taken if step.merge is None else merge_lora(step.merge, taken).reshape(-1).view(np.uint8)
        for copy in step.copies:
            _do(copy, source, self._output)
        for write in step.writes:
            data = taken.data if write.direct else self._output.data
            yield write, data[write.start : write.start + write.size_bytes]


def _at_least(buffer: Bytes, size_bytes: int) -> Bytes:
    return buffer if buffer.size >= size_bytes else np.empty(size_bytes, np.uint8)


def _do(copy: Copy, source: Bytes, target: Bytes) -> None:
    taken = view_bits(source, copy.source_start, copy.shape, copy.source_strides, copy.source_dtype)
    given = view_bits(target, copy.target_start, copy.shape, copy.target_strides, copy.target_dtype)
    cast_copy(given, taken, copy.source_dtype, copy.target_dtype)
