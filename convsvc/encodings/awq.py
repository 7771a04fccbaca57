"""AWQ: integers of four bits packed along the output, with zero points and float16 factors for groups of inputs.

`X.qweight` I32 [inputs, outputs / 8], `X.qzeros` I32 [groups, outputs / 8], `X.scales` [groups, outputs]; the codes of a word, the lowest
first, are those of outputs 0 2 4 6 1 3 5 7 (AutoAWQ utils/packing_utils.py, version "gemm"). The weight is turned. A value is
(code - zero point) x factor in float32, rounded once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from convsvc.encodings.base import Bits, Bytes, Claim, Form, Grid, Incomplete, Look, NoRule, Part, Piece, Rect, Unfit, Unread
from convsvc.encodings.numbers import Floats, nearest_integers
from convsvc.encodings.products import multiply
from convsvc.encodings.words import AWQ_ORDER, pack_columns, unpack_columns, wrong_groups
from convsvc.tensors.dtypes import size_of

TITLE = "AWQ"
SIGNS = (".qweight",)
SCALES, PER = ("F16", "BF16", "F32"), 8


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """Words along the output: an eighth as many columns as there are scales in a row."""
    names = tuple(stem + end for end in (".qweight", ".qzeros", ".scales"))
    weight, zeros, scales = map(look.part, names)
    if weight is None or weight.dtype != "I32" or look.part(stem + ".g_idx") is not None:
        return None
    if scales is None or zeros is None:
        raise Incomplete(f"{names[0]} has no {names[2] if scales is None else names[1]}")
    if scales.shape[1:] == weight.shape[1:] and scales.shape[1:] != (0,):
        return None
    bits, version = [each for each in look.said("bits") if isinstance(each, int)], look.said("version")
    if bits not in ([], [4]) or (version and str(version[0]).lower() != "gemm"):
        raise Unread(f"AWQ of {bits[0] if bits else 4} bits, version {version[0] if version else 'gemm'}")
    sizes = tuple([each for each in look.said("group_size") if isinstance(each, int)])
    form = _form(weight, zeros, scales, sizes)
    if isinstance(form, str):
        raise Unfit(f"{stem}: {form}")
    return Claim(stem + ".weight", names, form)


@lru_cache(maxsize=4096)
def _form(weight: Part, zeros: Part, scales: Part, sizes: tuple[int, ...]) -> Form | str:
    if len(weight.shape) != 2 or len(scales.shape) != 2 or scales.dtype not in SCALES:
        return f"expected two axes, found qweight {list(weight.shape)}, scales {scales.dtype} {list(scales.shape)}"
    inputs, outputs, groups = weight.shape[0], weight.shape[1] * PER, scales.shape[0]
    if (
        scales.shape != (groups, outputs)
        or zeros.shape != (groups, weight.shape[1])
        or zeros.dtype != "I32"
        or not groups
        or inputs % groups
    ):
        expected = f"qzeros I32 [groups, {weight.shape[1]}], scales [groups, {outputs}], equal groups of {inputs} inputs"
        return f"expected {expected}, found {zeros.dtype} {list(zeros.shape)}, {scales.dtype} {list(scales.shape)}"
    if wrong := wrong_groups(inputs, groups, sizes):
        return wrong
    size = max(1, inputs // groups)
    grids = (
        Grid("I32", 1, PER, inputs, weight.shape[1], 4),
        Grid("I32", size, PER, groups, zeros.shape[1], 4),
        Grid(scales.dtype, size, 1, groups, outputs, size_of(scales.dtype)),
    )
    return Form("awq", (inputs, outputs), grids, f"group of {size} inputs", PER, turned=True)


def decode(form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    """(code - zero point) x factor."""
    words = np.ascontiguousarray(pieces[0].rows(rect)).view("<u4")
    codes = unpack_columns(words, 4, AWQ_ORDER)
    zeros, factors = _shares(rect, pieces)
    return multiply((codes - zeros).astype(np.float32), factors, 1, out, dtype, 16.0)


def _shares(rect: Rect, pieces: tuple[Piece, ...]) -> tuple[Bits, Floats]:
    """The zero point and the factor of each of the rectangle's elements."""
    zeros = unpack_columns(pieces[1].numbers, 4, AWQ_ORDER)[pieces[1].row_numbers(rect)]
    first = rect.column - pieces[1].region.column * PER
    column = rect.column - pieces[2].region.column
    factors = pieces[2].factors[pieces[2].row_numbers(rect)][:, column : column + rect.columns]
    return zeros[:, first : first + rect.columns], factors


def recode(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> Bytes:
    """Nearest codes with these factors and zero points."""
    zeros, factors = _shares(rect, pieces)
    return pack_columns(np.clip(nearest_integers(values, factors, 1) + zeros, 0, 15), 4, AWQ_ORDER)


def rescale(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> tuple[Bytes, Bytes | None]:
    """Its scales follow from activations, not from weights."""
    raise NoRule("AWQ, whose scales follow from activations")
