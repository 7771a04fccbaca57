"""Does a step: fills the input buffer, moves elements to the output buffer, hands out what is to be written."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from convsvc.execute.io import Reader
from convsvc.execute.kernels import view_bits
from convsvc.execute.steps import Copy, Step, Write
from convsvc.execute.transforms import cast_copy, merge_lora

Bytes = npt.NDArray[np.uint8]


class Tiles:
    """Two buffers that are reused from step to step and grow to the largest one."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._input: Bytes = np.empty(0, np.uint8)
        self._output: Bytes = np.empty(0, np.uint8)

    def produce(self, step: Step) -> Iterator[tuple[Write, memoryview]]:
        """Each write of the step with its bytes, which are valid until the next step is produced."""
        self._input = _at_least(self._input, step.input_bytes)
        self._output = _at_least(self._output, step.output_bytes)
        filled = self._input.data
        for read in step.reads:
            self._reader.read_into(read.file, read.file_offset, filled[read.start : read.start + read.size_bytes])
        source = self._input if step.merge is None else merge_lora(step.merge, self._input).reshape(-1).view(np.uint8)
        for copy in step.copies:
            _do(copy, source, self._output)
        made = self._output.data
        for write in step.writes:
            yield write, (filled if write.direct else made)[write.start : write.start + write.size_bytes]


def _at_least(buffer: Bytes, size_bytes: int) -> Bytes:
    return buffer if buffer.size >= size_bytes else np.empty(size_bytes, np.uint8)


def _do(copy: Copy, source: Bytes, target: Bytes) -> None:
    taken = view_bits(source, copy.source_start, copy.shape, copy.source_strides, copy.source_dtype)
    given = view_bits(target, copy.target_start, copy.shape, copy.target_strides, copy.target_dtype)
    cast_copy(given, taken, copy.source_dtype, copy.target_dtype)
