"""Block-quantised numbers made BF16 or F32 in the input buffer: value = float8 x its block's scale, in float32, for BF16 rounded once.

A scale belongs to a block of the stored tensor's rows and columns, whatever its logical axes are, so this is done as the
bytes come from the file, before anything is copied. A float8 has 256 values: each block's products are looked up in a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from convsvc.execute.kernels.copying import UNSIGNED, Bits
from convsvc.execute.kernels.transforms import INFINITY, cast
from convsvc.execute.steps.decoding import Decoding
from convsvc.execute.steps.regions import Range
from convsvc.tensors.dtypes import size_of

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
# Indices take eight bytes an element; so many at once stay in the cache.
PIECE = 1 << 15
QUIET_NAN = {"BF16": 0x7FC0, "F32": 0x7FC00000}
# Products up to this are finite in BF16 and in F32.
SURELY_FINITE = 3e38


def dequantise(decoding: Decoding, buffer: Bytes) -> int:
    """Does the decoding in the buffer; every run is of `block.dtype` afterwards. Returns how many finite products have become infinite."""
    stop = decoding.scales_start + decoding.scales_bytes
    scales = decode_scales(buffer[decoding.scales_start : stop], decoding.scale_dtype).reshape(-1, decoding.scale_columns)
    dtype, overflows = decoding.block.dtype, 0
    itemsize = size_of(dtype)
    tables = _Tables(scales, NUMBERS[decoding.dtype], dtype)
    bases = (np.arange(decoding.columns) // decoding.block.columns * 256).astype(np.intp)
    for run, repeats in batches(decoding.runs, decoding.columns, decoding.block.rows):
        start = decoding.start + itemsize * run.at
        room = buffer[start : start + itemsize * run.count * repeats].reshape(repeats, -1)
        given, wanted = room[:, (itemsize - 1) * run.count :], room.view(UNSIGNED[itemsize])
        done = 0
        for row, column, rows, length in pieces(run, decoding.columns, decoding.block.rows):
            piece = slice(done, done + rows * length)
            index = given[:, piece].reshape(-1, length) + bases[column : column + length]
            table, beyond = tables.of(row // decoding.block.rows - decoding.scale_row)
            np.take(table, index, out=wanted[:, piece].reshape(-1, length), mode="wrap")
            overflows += 0 if beyond is None else int(np.count_nonzero(beyond[index]))
            done = piece.stop
    return overflows


def batches(runs: Sequence[Range], columns: int, block_rows: int) -> Iterator[tuple[Range, int]]:
    """The runs, each with how many alike come from it on: the same part of rows that follow on each other in one row of blocks.

    A tensor rank's part of the input axis is thousands of such runs.

    >>> runs = [Range(2, 3, 0), Range(12, 3, 3), Range(22, 3, 6), Range(32, 3, 9)]
    >>> [(run.start, repeats) for run, repeats in batches(runs, columns=10, block_rows=3)]
    [(2, 3), (32, 1)]
    """
    first = 0
    while first < len(runs):
        run, repeats = runs[first], 1
        row, column = divmod(run.start, columns)
        most = min(block_rows - row % block_rows, max(1, PIECE // run.count)) if column + run.count <= columns else 1
        while repeats < most and first + repeats < len(runs):
            alike = Range(run.start + repeats * columns, run.count, run.at + repeats * run.count)
            if runs[first + repeats] != alike:
                break
            repeats += 1
        yield run, repeats
        first += repeats


def pieces(run: Range, columns: int, block_rows: int) -> Iterator[tuple[int, int, int, int]]:
    """The run as rectangles (row, column, rows, columns) one after the other, each within one row of blocks.

    >>> list(pieces(Range(start=7, count=20, at=0), columns=5, block_rows=3))
    [(1, 2, 1, 3), (2, 0, 1, 5), (3, 0, 2, 5), (5, 0, 1, 2)]
    """
    first, stop = run.start, run.start + run.count
    while first < stop:
        row, column = divmod(first, columns)
        if column or stop - first < columns:
            rows, length = 1, min(columns - column, stop - first)
        else:
            rows, length = min((stop - first) // columns, block_rows - row % block_rows, max(1, PIECE // columns)), columns
        yield row, column, rows, length
        first += rows * length


def decode_scales(raw: Bytes, dtype: str) -> Floats:
    """Scales as float32. F8_E8M0 is a power of two: its exponent plus 127, 255 for NaN (OCP Microscaling Formats 1.0, 5.4.1)."""
    if dtype == "F8_E8M0":
        powers = np.ldexp(1.0, np.minimum(raw, 254).astype(np.int32) - 127)
        return np.where(raw == 255, np.nan, powers).astype(np.float32)
    return cast(raw.view(UNSIGNED[size_of(dtype)]), dtype, "F32").view(np.float32)


class _Tables:
    """For a row of blocks: every float8 times each block's scale, block after block. The last row asked for is kept."""

    def __init__(self, scales: Floats, numbers: Floats, dtype: str) -> None:
        self._scales, self._numbers, self._dtype = scales, numbers, dtype
        self._row = -1
        self._table: Bits = np.empty(0, UNSIGNED[size_of(dtype)])
        self._beyond: npt.NDArray[np.bool_] | None = None
        largest = float(np.max(np.abs(numbers), where=np.isfinite(numbers), initial=0.0))
        self._may_overflow = bool(np.max(np.abs(scales), where=np.isfinite(scales), initial=0.0) > SURELY_FINITE / largest)

    def of(self, row: int) -> tuple[Bits, npt.NDArray[np.bool_] | None]:
        """The row's table, and which of its values are infinite though number and scale are finite; None where there are none."""
        if row != self._row:
            with np.errstate(all="ignore"):  # NaN times anything, and overflow to infinity
                values = (self._scales[row][:, None] * self._numbers).reshape(-1)
            bits = cast(values.view(np.uint32), "F32", self._dtype)
            self._row, self._table = row, np.where(np.isnan(values), bits.dtype.type(QUIET_NAN[self._dtype]), bits)
            self._beyond = self._overflowing(row) if self._may_overflow else None
        return self._table, self._beyond

    def _overflowing(self, row: int) -> npt.NDArray[np.bool_]:
        finite = np.isfinite(self._scales[row])[:, None] & np.isfinite(self._numbers)
        magnitudes = self._table & self._table.dtype.type(np.iinfo(self._table.dtype).max >> 1)
        beyond: npt.NDArray[np.bool_] = finite.reshape(-1) & (magnitudes == INFINITY[self._dtype])
        return beyond


def _e4m3() -> Floats:
    """All float8_e4m3fn: bias 7, no infinity, NaN where exponent and mantissa are all ones (OCP 8-bit Floating Point 1.0, 5.1)."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent > 0, np.ldexp(8.0 + mantissa, exponent - 10), np.ldexp(1.0 * mantissa, -9))
    size[(code & 127) == 127] = np.nan
    signed: Floats = np.where(code < 128, size, -size).astype(np.float32)
    return signed


# float8_e5m2 is the upper byte of a float16.
NUMBERS: dict[str, Floats] = {
    "F8_E4M3": _e4m3(),
    "F8_E5M2": (np.arange(256) << 8).astype(np.uint16).view(np.float16).astype(np.float32),
}
