"""MXFP8: float8 weights with a power of two for every 32 numbers of a row (OCP Microscaling Formats 1.0).

`X.weight` [rows, columns] in F8_E4M3 and exponents as bytes, [rows, columns / 32], called `X.weight_scale` by ModelOpt
(qtensor/mxfp8_tensor.py) and compressed-tensors (mxfp8-quantized), `X.weight_scale_inv` by MiniMax-M3 (quant_method "mxfp8"). A U8
scale holds exponents, never numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from convsvc.encodings.base import Bits, Bytes, Claim, Form, Grid, Look, Part, Piece, Rect, Unfit, codes_grid, fits
from convsvc.encodings.numbers import EXPONENTS, INFINITY, NUMBERS, Floats, ceil_exponents, divided, round_to_e4m3
from convsvc.encodings.products import multiply, spread

TITLE = "MXFP8"
SIGNS = ("_scale_inv", "_scale")
GROUP = 32


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """Bytes beside a float8 weight."""
    weight, scale = look.part(stem), look.part(stem + sign)
    if weight is None or scale is None or weight.dtype != "F8_E4M3" or scale.dtype != "U8":
        return None
    if len(weight.shape) < 2 or not fits(weight.shape, 1, GROUP, scale.shape):
        raise Unfit(f"{stem + sign}: expected an exponent for every {GROUP} columns of {list(weight.shape)}, found U8 {list(scale.shape)}")
    return Claim(stem, (stem, stem + sign), _form(weight))


@lru_cache(maxsize=4096)
def _form(weight: Part) -> Form:
    height, width = weight.shape[-2:]
    factors = Grid("U8", 1, GROUP, height, -(-width // GROUP), 1)
    return Form("mxfp8", weight.shape, (codes_grid(weight.dtype, height, width), factors), f"{GROUP} columns of a row", GROUP)


def decode(form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    """Codes and exponents looked up together."""
    (table, beyond), codes = _table(dtype), pieces[0].rows(rect)
    index = np.repeat(pieces[1].rows(rect).astype(np.uint16) << np.uint16(8), GROUP, axis=1)[:, : rect.columns]
    index |= codes
    if out.flags.c_contiguous:
        np.take(table, index, out=out, mode="clip")
    else:
        out[...] = np.take(table, index, mode="clip")
    return int(np.count_nonzero(beyond[index])) if (pieces[1].data > LARGEST_SAFE).any() else 0


def recode(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> Bytes:
    """Nearest codes with these exponents."""
    return round_to_e4m3(divided(values, *spread(pieces[1], rect)))


def rescale(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> tuple[Bytes, Bytes | None]:
    """2^ceil(log2(amax / 448)): ModelOpt (qtensor/mxfp8_tensor.py), transformers."""
    starts = np.arange(0, values.shape[1], GROUP)
    largest: Floats = np.maximum.reduceat(np.abs(values), starts, axis=1)
    return ceil_exponents((largest / np.float32(448)).astype(np.float32, copy=False)), None


# Exponents up to this give finite numbers of any code.
LARGEST_SAFE = 127 + 119


@lru_cache(maxsize=2)
def _table(dtype: str) -> tuple[Bits, npt.NDArray[np.bool_]]:
    """For each exponent and each float8 the value's bits, and which of them became infinite."""
    table = np.empty((256, 256), np.uint16 if dtype == "BF16" else np.uint32)
    multiply(np.repeat(NUMBERS["F8_E4M3"][None, :], 256, axis=0), EXPONENTS[:, None], 256, table, dtype)
    magnitudes = table & table.dtype.type(np.iinfo(table.dtype).max >> 1)
    return table.reshape(-1), (magnitudes == INFINITY[dtype]).reshape(-1)
