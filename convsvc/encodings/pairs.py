"""Numbers of four bits, two a byte, with a factor for a group of them: both looked up together. Pure.

A factor of one byte and two codes' byte are the index of a table of 65,536 pairs of values, so that each value is one product in float32,
rounded once, however it comes out: subnormal, infinite or NaN. Low nibbles come first. A factor of BF16 has too many bits for that, but
those of one weight have few exponents.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from convsvc.encodings.base import Bits, Piece, Rect
from convsvc.encodings.numbers import E2M1, EXPONENTS, INFINITY, NUMBERS, QUIET_NAN, round_to_bf16

Table = tuple[Bits, npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


@lru_cache(maxsize=8)
def pair_table(scales: str, second: tuple[int, int], dtype: str) -> Table:
    """For each factor byte and each byte of two codes the pair of values, as bits of `dtype`, and how many of them became
    infinite; and which factors make any infinite.

    `scales` is the factors' dtype; `second` are the bits of a further float32 factor, and of a divisor, which all share.
    """
    factors = (EXPONENTS if scales in ("U8", "F8_E8M0") else NUMBERS[scales]).copy()
    factor, divisor = np.array(second, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):  # NaN times anything, and overflow to infinity
        factors *= factor
        factors /= divisor
        values = factors[:, None] * E2M1[None, :]
    nan = np.isnan(values)
    values[nan] = 0
    bits = values.view(np.uint32) if dtype == "F32" else round_to_bf16(values)
    bits = np.where(nan, bits.dtype.type(QUIET_NAN[dtype]), bits)
    magnitudes = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    beyond = (magnitudes == INFINITY[dtype]) & np.isfinite(factors)[:, None]
    low, high = np.arange(256) & 15, np.arange(256) >> 4
    pairs = np.ascontiguousarray(np.stack([bits[:, low], bits[:, high]], axis=-1))
    table = pairs.reshape(-1).view(np.uint32 if dtype == "BF16" else np.uint64)
    counts = (beyond[:, low].astype(np.uint8) + beyond[:, high]).reshape(-1)
    return table, counts, beyond.any(axis=1)


ONE = int(np.float32(1).view(np.uint32))
# A table of BF16 factors has so many exponents, 128 factors of each: 4 MiB, of which the few that a weight has stay in a core's cache.
SPAN, MANTISSAS = 32, 7


def look_up(rect: Rect, codes: Piece, scales: Piece, out: Bits, dtype: str, second: tuple[int, int] = (ONE, ONE)) -> int:
    """The values of a rectangle in whole groups; `second` as in `pair_table`. Returns how many finite products are infinite."""
    table, counts, risky = pair_table(scales.grid.dtype, second, dtype)
    packed = codes.rows(rect)
    index = np.repeat(scales.rows(rect).astype(np.uint16) << np.uint16(8), scales.grid.columns // 2, axis=1)
    index |= packed
    if out.flags.c_contiguous:
        np.take(table, index, out=out.view(table.dtype), mode="clip")
    else:
        out[...] = np.take(table, index, mode="clip").view(out.dtype)
    return int(counts[index].sum()) if risky[scales.rows(rect)].any() else 0


def look_up_integers(rect: Rect, codes: Piece, scales: Piece, out: Bits) -> bool:
    """Four-bit codes less 8, times BF16 factors, as BF16, in whole groups. False, and nothing done, where the factors are too far apart.

    They are where their exponents span more than a table has, or where one is negative, zero, or so large that a product is infinite.
    """
    factors = scales.rows(rect).view("<u2")
    exponents = int(factors.min(initial=1 << 15)) >> MANTISSAS, int(factors.max(initial=0)) >> MANTISSAS
    first = exponents[0] // (SPAN // 2) * (SPAN // 2)
    if exponents[0] == 0 or exponents[1] >= min(first + SPAN, 250):
        return False
    rows = (factors - np.uint16(first << MANTISSAS)).astype(np.uint32) << np.uint32(8)
    index = np.repeat(rows, scales.grid.columns // 2, axis=1)
    index |= codes.rows(rect)
    np.take(_integers(first), index, out=out.view(np.uint32), mode="clip")
    return True


@lru_cache(maxsize=2)
def _integers(exponent: int) -> npt.NDArray[np.uint32]:
    """For each BF16 number from this exponent on, and each byte, its codes less 8 times that number: a pair of BF16."""
    numbers = np.arange(SPAN << MANTISSAS, dtype=np.uint32) + np.uint32(exponent << MANTISSAS)
    codes = np.arange(16, dtype=np.float32) - 8
    bits = round_to_bf16((numbers << np.uint32(16)).view(np.float32)[:, None] * codes[None, :])
    low, high = np.arange(256) & 15, np.arange(256) >> 4
    pairs: npt.NDArray[np.uint32] = np.ascontiguousarray(np.stack([bits[:, low], bits[:, high]], axis=-1)).reshape(-1).view(np.uint32)
    return pairs
