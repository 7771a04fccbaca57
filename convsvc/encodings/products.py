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
    """`out` = float8 codes (piece 0) x factors (piece 1), as bits of `dtype`. Returns how many products have become infinite."""
    codes, (factors, shared) = pieces[0].rows(rect), spread(pieces[1], rect)
    largest = float(np.max(np.abs(factors), where=np.isfinite(factors), initial=0.0))
    plain = bool(np.isfinite(factors).all()) and largest < LARGEST_FACTOR
    if pieces[0].grid.dtype == "F8_E4M3" and plain and not ((codes & 127) == 127).any():
        bits = codes.view(np.int8).astype(np.int32)
        bits <<= E4M3_SHIFT
        bits &= E4M3_BITS
        values = bits.view(np.float32)
        _scale(values, factors * E4M3_FACTOR, shared)
        store(values, out, dtype)
        return 0
    return multiply(NUMBERS[pieces[0].grid.dtype][codes], factors, shared, out, dtype)


def multiply(values: Floats, factors: Floats, shared: int, out: Bits, dtype: str) -> int:
    """`out` = values x factors, of which `shared` neighbours have one. May overwrite `values`.

    Returns how many finite products became infinite.
    """
    largest = max(float(np.max(np.abs(each), where=np.isfinite(each), initial=0.0)) for each in (values, factors))
    smallest = min(float(np.max(np.abs(each), where=np.isfinite(each), initial=0.0)) for each in (values, factors))
    risky = largest * smallest > SURELY_FINITE
    finite = _all_finite(values, factors, shared) if risky else None
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
    grouped = values.reshape(rows, -1, shared)
    grouped *= factors[:, :, None]


def _all_finite(values: Floats, factors: Floats, shared: int) -> npt.NDArray[np.bool_]:
    columns = values.shape[1]
    sure = np.isfinite(factors)
    spread_out = sure if shared in (1, columns) else np.repeat(sure, shared, axis=1)
    finite: npt.NDArray[np.bool_] = np.isfinite(values) & spread_out
    return finite
