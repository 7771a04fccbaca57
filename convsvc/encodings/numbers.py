"""Numbers of few bits, as float32: tables of all codes, scales, and how float32 becomes a narrower type. Pure.

Code tables are of OCP 8-bit Floating Point 1.0 (5.1) and OCP Microscaling Formats 1.0 (5.3, 5.4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from convsvc.tensors.dtypes import size_of

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[Any]
NUMPY: dict[str, Any] = {"F16": np.float16, "F32": np.float32}
# The bits of infinity: what has larger ones is a NaN, signs apart.
INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
QUIET_NAN = {"BF16": 0x7FC0, "F32": 0x7FC00000}
SCALE_DTYPES = ("F32", "BF16", "F16", "F8_E8M0")


def widen(bits: Bits, dtype: str) -> Floats:
    """Bit patterns of a float type as float32; of F64 rounded."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype in NUMBERS:
        return NUMBERS[dtype][bits.view(np.uint8)]
    narrow: Floats = bits.view(NUMPY.get(dtype, np.float64)).astype(np.float32, copy=False)
    return narrow


def round_to_bf16(values: Floats) -> Bits:
    """The bits of BF16, rounded to nearest even. A NaN keeps the payload bits that fit."""
    bits = values.view(np.uint32)
    top = bits >> np.uint32(16)
    rounded = (bits + np.uint32(0x7FFF) + (top & np.uint32(1))) >> np.uint32(16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    if nan.any():
        # Rounding could carry a NaN to infinity. Its upper bits are kept; where they say infinity, it becomes a quiet NaN.
        kept = np.where(top & np.uint32(0x7F), top, top | np.uint32(0x40))
        rounded = np.where(nan, kept, rounded)
    return rounded.astype(np.uint16)


def decode_scales(raw: npt.NDArray[np.uint8], dtype: str) -> Floats:
    """The numbers of a row of bytes, as float32. U8 stands for exponents, as F8_E8M0."""
    if dtype == "U8":
        return EXPONENTS[raw]
    return widen(np.ascontiguousarray(raw).view(f"<u{size_of(dtype)}"), dtype)


def round_to_e4m3(values: Floats) -> npt.NDArray[np.uint8]:
    """The codes of float8_e4m3fn, rounded to nearest even; what is too large becomes the largest, 448. A NaN stays one."""
    bits = np.clip(values, -448, 448).view(np.uint32)
    size = bits & np.uint32(0x7FFFFFFF)
    # The last of the three bits of mantissa that stay is bit 20; the exponents' biases are 127 and 7.
    codes = (size + np.uint32(0x7FFFF) + ((size >> np.uint32(20)) & np.uint32(1))) >> np.uint32(20)
    codes -= np.uint32(120 << 3)
    small = size < np.uint32(0x3C800000)  # 2^-6: below, codes are multiples of 2^-9
    if small.any():
        codes[small] = np.rint(np.abs(values[small]) * np.float32(512)).astype(np.uint32)
    codes[size > np.uint32(0x7F800000)] = 0x7F
    codes |= (bits >> np.uint32(24)) & np.uint32(0x80)
    return codes.astype(np.uint8)


def round_to_e5m2(values: Floats) -> npt.NDArray[np.uint8]:
    """The codes of float8_e5m2, rounded to nearest even; what is too large becomes the largest, 57344."""
    bits = np.clip(values, -57344, 57344).astype(np.float16).view(np.uint16)
    return ((bits + np.uint16(0x7F) + ((bits >> np.uint16(8)) & np.uint16(1))) >> np.uint16(8)).astype(np.uint8)


def round_to_e2m1(values: Floats) -> npt.NDArray[np.uint8]:
    """The codes of floats of four bits, to nearest, ties to the even code, the sign kept; what is too large becomes the largest, 6."""
    size, codes = np.abs(values), np.zeros(values.shape, np.uint8)
    for number, edge in enumerate(EDGES):
        codes += size > edge if number % 2 == 0 else size >= edge
    codes |= np.signbit(values).astype(np.uint8) << np.uint8(3)
    return codes


def pack_pairs(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Rows of codes of four bits, two a byte, the first in the low bits."""
    packed: npt.NDArray[np.uint8] = codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)
    return packed


def ceil_exponents(wanted: Floats) -> npt.NDArray[np.uint8]:
    """The bytes of the least powers of two that are not smaller: 2^ceil(log2(wanted)); 0 for 0."""
    exponents = ((wanted.view(np.uint32) + np.uint32(0x7FFFFF)) & np.uint32(0x7F800000)) >> np.uint32(23)
    return exponents.astype(np.uint8)


def divided(values: Floats, factors: Floats, shared: int) -> Floats:
    """Values over factors, of which `shared` neighbours have one; over 0 they are zeros with their sign."""
    wide = factors if shared in (1, values.shape[1]) else np.repeat(factors, shared, axis=1)
    with np.errstate(all="ignore"):
        made: Floats = np.where(wide == 0, np.copysign(np.float32(0), values), values / wide).astype(np.float32, copy=False)
    return made


def nearest_integers(values: Floats, factors: Floats, shared: int) -> Floats:
    """The integers that give the values in BF16, times factors of which `shared` neighbours have one; the nearest where none does.

    Of eight bits the nearest need not: at a power of two BF16's steps are wider above than below.
    """
    wide = factors if shared in (1, values.shape[1]) else np.repeat(factors, shared, axis=1)
    exact = divided(values, factors, shared)
    nearest: Floats = np.rint(exact)
    if not wide.all():  # what is less than nothing, times 0, is the zero with a sign
        nearest = np.where((wide == 0) & np.signbit(values), np.float32(-1), nearest)
    wrong = round_to_bf16(np.ascontiguousarray(nearest * wide)) != round_to_bf16(np.ascontiguousarray(values))
    if wrong.any():
        nearest = np.where(wrong, nearest + np.sign(exact - nearest), nearest).astype(np.float32)
    return nearest


def _e4m3() -> Floats:
    """All float8_e4m3fn: bias 7, no infinity, NaN where exponent and mantissa are all ones."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent > 0, np.ldexp(8.0 + mantissa, exponent - 10), np.ldexp(1.0 * mantissa, -9))
    size[(code & 127) == 127] = np.nan
    signed: Floats = np.where(code < 128, size, -size).astype(np.float32)
    return signed


def _e8m0() -> Floats:
    """All powers of two of an exponent byte: bias 127, 255 for NaN."""
    code = np.arange(256)
    powers: Floats = np.where(code == 255, np.nan, np.ldexp(1.0, np.minimum(code, 254) - 127)).astype(np.float32)
    return powers


EXPONENTS = _e8m0()
# float8_e5m2 is the upper byte of a float16.
NUMBERS: dict[str, Floats] = {
    "F8_E4M3": _e4m3(),
    "F8_E5M2": (np.arange(256) << 8).astype(np.uint16).view(np.float16).astype(np.float32),
    "F8_E8M0": EXPONENTS,
}
# Between neighbours of E2M1; a tie goes to the even code.
EDGES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_HALF: list[float] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
# Floats of four bits, the sign in bit 3.
E2M1: Floats = np.array([*_HALF, *(-each for each in _HALF)], np.float32)
