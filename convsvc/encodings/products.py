"""Codes times factors in float32, and one rounding to what is wanted. For encodings whose codes are numbers of their own. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convsvc.encodings.base import Form, Piece, Rect
from convsvc.encodings.numbers import INFINITY, NUMBERS, QUIET_NAN, Bits, Floats

# A float8_e4m3's exponent and mantissa in the places of a float32's make a number that is 2^120 times too small.
E4M3_SHIFT, E4M3_BITS, E4M3_FACTOR = 20, np.int32(-0x78100000), np.float32(2.0**120)
# Factors up to this may be multiplied by it.
LARGEST_FACTOR = 2.0**7
# A table of all products is worth making for so many rows; its index has 16 bits.
ROWS_OF_TABLE, FACTORS_OF_TABLE = 32, 256
# Products up to this are finite in BF16 and in F32.
SURELY_FINITE = 3e38
_HALF_ULP, _ONE, _SIXTEEN = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)


def spread(piece: Piece, rect: Rect) -> tuple[Floats, int]:
    """The factors of a rectangle's rows, and how many of its columns share one: [rows or 1, groups], or, with 1, one for each column."""
    grid, numbers = piece.grid, piece.row_numbers(rect)
    taken = piece.factors[numbers[:1] if numbers[0] == numbers[-1] else numbers]
    first = rect.column // grid.columns
    chosen = taken[:, first - piece.region.column : -(-(rect.column + rect.columns) // grid.columns) - piece.region.column]
    if chosen.shape[1] == 1:
        return chosen, rect.columns
    if rect.column % grid.columns == 0 and rect.columns % grid.columns == 0:
        return chosen, grid.columns
    skipped = rect.column - first * grid.columns
    return np.repeat(chosen, grid.columns, axis=1)[:, skipped : skipped + rect.columns], 1


def multiply_float8(form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    """`out` = float8 codes (piece 0) x factors (piece 1), as bits of `dtype`. Returns how many products have become infinite.

    Where many rows share their factors, each factor's 256 products are looked up; a table of 65,536 has a place for 256 factors.
    """
    if pieces[1].grid.rows >= ROWS_OF_TABLE and pieces[1].region.columns <= FACTORS_OF_TABLE:
        return _look_up(rect, pieces, out, dtype)
    codes, (factors, shared) = pieces[0].rows(rect), spread(pieces[1], rect)
    largest = float(np.max(np.abs(factors), where=np.isfinite(factors), initial=0.0))
    plain = bool(np.isfinite(factors).all()) and largest < LARGEST_FACTOR
    if pieces[0].grid.dtype == "F8_E4M3" and plain and int((codes & 127).max(initial=0)) < 127:
        bits = codes.view(np.int8).astype(np.int32)
        bits <<= E4M3_SHIFT
        bits &= E4M3_BITS
        values = bits.view(np.float32)
        _scale(values, factors * E4M3_FACTOR, shared)
        store(values, out, dtype)
        return 0
    return multiply(NUMBERS[pieces[0].grid.dtype][codes], factors, shared, out, dtype)


def _look_up(rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    codes, factors = pieces[0].rows(rect), pieces[1]
    numbers, overflows, start = factors.row_numbers(rect), 0, 0
    columns = np.arange(rect.column, rect.column + rect.columns) // factors.grid.columns - factors.region.column
    bases = (columns << 8).astype(np.uint16)
    while start < rect.rows:
        stop = start + int(np.searchsorted(numbers[start:], numbers[start], side="right"))
        table, beyond = _table(factors, int(numbers[start]), pieces[0].grid.dtype, dtype)
        index = codes[start:stop].astype(np.uint16)
        index += bases
        if out.flags.c_contiguous:
            np.take(table, index, out=out[start:stop], mode="clip")
        else:
            out[start:stop] = np.take(table, index, mode="clip")
        overflows += 0 if beyond is None else int(np.count_nonzero(beyond[index]))
        start = stop
    return overflows


def _table(piece: Piece, row: int, codes: str, dtype: str) -> tuple[Bits, npt.NDArray[np.bool_] | None]:
    """For each factor of a row of the piece, and each float8, the product's bits, and which became infinite. Kept with the piece."""
    if row not in piece.tables:
        numbers, factors = NUMBERS[codes], piece.factors[row]
        table = np.empty((len(factors), 256), np.uint16 if dtype == "BF16" else np.uint32)
        values = np.repeat(numbers[None, :], len(factors), axis=0)
        beyond = multiply(values, factors[:, None], 256, table, dtype)
        infinite = (table & table.dtype.type(np.iinfo(table.dtype).max >> 1)) == INFINITY[dtype]
        where = (infinite & np.isfinite(numbers)[None, :] & np.isfinite(factors)[:, None]).reshape(-1) if beyond else None
        piece.tables[row] = (table.reshape(-1), where)
    found: tuple[Bits, npt.NDArray[np.bool_] | None] = piece.tables[row]
    return found


def multiply(values: Floats, factors: Floats, shared: int, out: Bits, dtype: str, largest: float | None = None) -> int:
    """`out` = values x factors, of which `shared` neighbours have one. May overwrite `values`.

    `largest`: that of the values, where it is known and all are finite. Returns how many finite products became infinite.
    """
    factor = _largest(factors)
    if largest is not None and factor * largest < SURELY_FINITE and bool(np.isfinite(factors).all()):
        _scale(values, factors, shared)
        store(values, out, dtype)
        return 0
    finite = _all_finite(values, factors, shared) if factor * _largest(values) > SURELY_FINITE else None
    with np.errstate(all="ignore"):  # NaN times anything, and overflow to infinity
        _scale(values, factors, shared)
    nan = np.isnan(values)
    store(values, out, dtype)
    if nan.any():
        out[nan] = QUIET_NAN[dtype]
    if finite is None:
        return 0
    magnitudes = out & out.dtype.type(np.iinfo(out.dtype).max >> 1)
    return int(np.count_nonzero(finite & (magnitudes == INFINITY[dtype])))


def _largest(values: Floats) -> float:
    return float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0))


def store(values: Floats, out: Bits, dtype: str) -> None:
    """The values' bits, rounded to nearest even for BF16. None of them may be NaN; overwrites them."""
    bits = values.view(np.uint32)
    if dtype == "F32":
        out[...] = bits
        return
    even = bits >> _SIXTEEN
    even &= _ONE
    even += _HALF_ULP
    even += bits
    even >>= _SIXTEEN
    out[...] = even


def _scale(values: Floats, factors: Floats, shared: int) -> None:
    rows, columns = values.shape
    if shared in (1, columns):
        values *= factors
        return
    if len(factors) == 1 and shared > 1:
        values *= np.repeat(factors, shared, axis=1)
        return
    grouped = values.reshape(rows, -1, shared)
    grouped *= factors[:, :, None]


def _all_finite(values: Floats, factors: Floats, shared: int) -> npt.NDArray[np.bool_]:
    columns = values.shape[1]
    sure = np.isfinite(factors)
    spread_out = sure if shared in (1, columns) else np.repeat(sure, shared, axis=1)
    finite: npt.NDArray[np.bool_] = np.isfinite(values) & spread_out
    return finite
