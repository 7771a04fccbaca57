"""Compares copies of what was read with it, by value and bit for bit: a NaN is the same NaN, or another value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convsvc.errors import ConvsvcError, SourceError, VerifyError
from convsvc.execute.disk.io import Reader
from convsvc.execute.kernels.copying import Bits, view_bits
from convsvc.execute.kernels.dequantising import dequantise
from convsvc.execute.kernels.transforms import cast
from convsvc.execute.steps.alignment import aligned_bytes
from convsvc.execute.steps.checks import CHECK_BYTES, Check, Pair
from convsvc.execute.task_files import Side
from convsvc.plan.records import View
from convsvc.tensors.dtypes import FLOATS, common_dtype

Bytes = npt.NDArray[np.uint8]
REPLICA = (
    "find out which one is right: copies drift apart where training forgot to synchronise them; "
    'to take what the first rank holds all the same, state options.check_copies "none"'
)


@dataclass(frozen=True, slots=True)
class Copy:
    """One of two stored copies: the tensor's name, its file, and the index and value of the element that differs."""

    tensor: str
    path: str
    index: list[int]
    value: str

    def __str__(self) -> str:
        return f"{self.tensor} of {self.path} has {self.value} at {self.index}"

    def as_dict(self) -> dict[str, Any]:
        return {"tensor": self.tensor, "path": self.path, "index": self.index, "value": self.value}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two copies of a logical tensor differ first: the index in it, and both."""

    name: str
    index: list[int]
    read: Copy
    other: Copy
    remedy: str

    def details(self) -> dict[str, Any]:
        return {"tensor": self.name, "index": self.index, "copies": [self.read.as_dict(), self.other.as_dict()]}


def source_differs(found: Difference) -> ConvsvcError:
    """The error for a source whose copies differ."""
    is_replica = found.read.tensor == found.other.tensor
    return SourceError(
        f"the source holds {found.name} more than once, and the copies differ",
        facts=[str(found.read), str(found.other), f"first difference at {found.index} of {found.name}"],
        do=found.remedy if found.remedy and not is_replica else REPLICA,
        details=found.details(),
    )


def target_differs(found: Difference) -> ConvsvcError:
    """The error for a target whose copies differ."""
    return VerifyError(
        f"the target holds {found.name} more than once, and the copies differ",
        facts=[str(found.read), str(found.other), f"first difference at {found.index} of {found.name}"],
        do="the target has changed since it was written, or was not written by this job: convert it again",
        details=found.details(),
    )


class Checker:
    """Does a task's checks, with one buffer for all of them. `error` makes of a difference what is raised."""

    def __init__(self, reader: Reader, source: Side, error: Callable[[Difference], ConvsvcError], check_wanted: Callable[[], None]) -> None:
        self._reader, self._source, self._error, self._check_wanted = reader, source, error, check_wanted
        self._buffer: Bytes = aligned_bytes(0)

    def check(self, check: Check, held: Bytes) -> None:
        """Reads a copy and compares it with what is in the input buffer `held`. Raises what `error` makes of the first difference."""
        self._check_wanted()
        there = self._buffer_of(check.reading.size_bytes)
        for read in check.reading.reads:
            self._reader.read(read, there.data[read.start : read.start + read.total_bytes])
        for decoding in check.reading.decodings:
            dequantise(decoding, there)
        for pair in check.pairs:
            differs = _compare(pair, held, there)
            if differs is not None:
                raise self._error(self._difference(check, pair, differs, held, there))

    def _buffer_of(self, size_bytes: int) -> Bytes:
        if self._buffer.size < size_bytes:
            self._buffer = aligned_bytes(max(size_bytes, CHECK_BYTES * 3 // 2))
        return self._buffer

    def _difference(self, check: Check, pair: Pair, at: tuple[int, ...], held: Bytes, there: Bytes) -> Difference:
        index = tuple(start + shift for start, shift in zip(pair.starts, at, strict=True))
        values = [
            _value(view_bits(buffer, spot.start, pair.shape, spot.strides, spot.dtype)[at], spot.dtype)
            for buffer, spot in ((held, pair.here), (there, pair.there))
        ]
        read, other = (self._copy(view, index, value) for view, value in zip((pair.held, check.copy), values, strict=True))
        return Difference(check.name, list(index), read, other, check.remedy)

    def _copy(self, view: View, index: tuple[int, ...], value: str) -> Copy:
        place = view.places[0]
        tensor = self._source.tensors[place.tensor]
        offset = place.offset + sum((a - b) * stride for a, b, stride in zip(index, view.starts, view.strides, strict=True))
        stored = [int(i) for i in np.unravel_index(offset, tensor.shape)] if tensor.shape else []
        return Copy(tensor.name, self._source.files[tensor.file].path, stored, value)


def _compare(pair: Pair, held: Bytes, there: Bytes) -> tuple[int, ...] | None:
    """The first index in the pair's box at which the two differ; None where they are alike."""
    here = view_bits(held, pair.here.start, pair.shape, pair.here.strides, pair.here.dtype)
    copy = view_bits(there, pair.there.start, pair.shape, pair.there.strides, pair.there.dtype)
    if pair.here.dtype != pair.there.dtype:
        wide = common_dtype(pair.here.dtype, pair.there.dtype)
        assert wide is not None, "the planner refuses copies that cannot be compared"
        here, copy = _widened(here, pair.here.dtype, wide), _widened(copy, pair.there.dtype, wide)
    differs = np.not_equal(here, copy)
    if not differs.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(differs.argmax()), pair.shape)) if pair.shape else ()


def _widened(values: Bits, dtype: str, wide: str) -> Bits:
    return cast(np.ascontiguousarray(values), dtype, wide).reshape(values.shape)


def _value(bits: Any, dtype: str) -> str:
    """An element for people: its number where it is a float, and its bits."""
    pattern = f"0x{int(bits):0{2 * bits.dtype.itemsize}x}"
    if dtype not in FLOATS:
        return f"{pattern} ({dtype})"
    whole = np.asarray(bits).reshape(1)
    number = whole.view(np.float64)[0] if dtype == "F64" else cast(whole, dtype, "F32").view(np.float32)[0]
    return f"{number:.9g} ({dtype} {pattern})"
