"""MXFP8: float8 weights with a power of two for every 32 numbers of a row (OCP Microscaling Formats 1.0).

`X.weight` [rows, columns] in F8_E4M3 and exponents as bytes, [rows, columns / 32], called `X.weight_scale` by ModelOpt
(qtensor/mxfp8_tensor.py) and compressed-tensors (mxfp8-quantized), `X.weight_scale_inv` by MiniMax-M3 (quant_method "mxfp8"). A U8
scale holds exponents, never numbers.
"""

from __future__ import annotations

from functools import lru_cache

from convsvc.encodings.base import Claim, Form, Grid, Look, Part, Unfit, codes_grid, fits
from convsvc.encodings.products import multiply_float8 as decode

__all__ = ["SIGNS", "TITLE", "claim", "decode"]

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
    return Form("mxfp8", weight.shape, (codes_grid(weight.dtype, height, width), factors), f"{GROUP} columns of a row")
