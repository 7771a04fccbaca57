"""GPTQ: integers of 2, 4 or 8 bits packed along the input, with zero points and float16 factors for groups of inputs.

`X.qweight` I32 [inputs x bits / 32, outputs], `X.qzeros` I32 [groups, outputs x bits / 32], `X.scales` [groups, outputs], `X.g_idx` I32
[inputs]: the group of each input (GPTQModel nn_modules/qlinear/torch.py). The weight is turned. Version 1 (checkpoint_format "gptq", or
nothing said) stores zero points less one; a stored one of all bits would be 0 or 2^bits, and is refused. A value is (code - zero point) x
factor in float32, rounded once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from convsvc.encodings.base import Bits, Bytes, Claim, Form, Grid, Incomplete, Look, NoRule, Part, Piece, Rect, Unfit, Unread, whole
from convsvc.encodings.numbers import Floats, nearest_integers
from convsvc.encodings.products import multiply
from convsvc.encodings.words import WIDTHS, pack_rows, unpack_columns, unpack_rows, wrong_groups
from convsvc.tensors.dtypes import size_of

TITLE = "GPTQ"
SIGNS = (".qweight",)
SCALES = ("F16", "BF16", "F32")
# What checkpoint_format says of tensors that lie as they do here; a kernel's own order (marlin) has another name.
FORMATS = ("", "gptq", "gptq_v2")


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """Words along the input; with as many columns as there are scales in a row."""
    names = tuple(stem + end for end in (".qweight", ".qzeros", ".scales", ".g_idx"))
    weight, zeros, scales, groups = map(look.part, names)
    if weight is None or weight.dtype != "I32":
        return None
    if groups is None and (scales is None or len(scales.shape) != 2 or scales.shape[1:] != weight.shape[1:] or not scales.shape[1]):
        return None
    missing = [name for name, part in zip(names, (weight, zeros, scales, groups), strict=True) if part is None]
    if missing or zeros is None or scales is None or groups is None:
        raise Incomplete(f"{names[0]} has no {missing[0]}")
    said = [each for each in look.said("bits") if isinstance(each, int)]
    stored = look.said("checkpoint_format")
    if unknown := [each for each in stored if each not in FORMATS]:
        raise Unread(f"GPTQ in the format {str(unknown[0])[:40]!r}")
    bits = _bits(weight, groups, said)
    sizes = tuple([each for each in look.said("group_size") if isinstance(each, int)])
    form = _form(weight, zeros, scales, groups, bits, 2 if "gptq_v2" in stored else 1, sizes)
    if isinstance(form, str):
        raise Unfit(f"{stem}: {form}")
    return Claim(stem + ".weight", names, form)


def _bits(weight: Part, groups: Part, said: list[int]) -> int:
    """Bits of a code: there is a group for each input. What the configuration says, of several layers maybe, must have it among them."""
    inputs = groups.shape[0] if groups.shape else 0
    found = next((bits for bits in WIDTHS if weight.shape and weight.shape[0] * 32 == bits * inputs), None)
    if found is not None and (found in said or not said):
        return found
    if said and said[0] not in WIDTHS:
        raise Unread(f"GPTQ of {said[0]} bits")
    return said[0] if said else 4


@lru_cache(maxsize=4096)
def _form(weight: Part, zeros: Part, scales: Part, groups: Part, bits: int, version: int, sizes: tuple[int, ...]) -> Form | str:
    per = 32 // bits
    if len(weight.shape) != 2 or len(scales.shape) != 2 or scales.dtype not in SCALES:
        return f"expected two axes, found qweight {list(weight.shape)}, scales {scales.dtype} {list(scales.shape)}"
    inputs, outputs = weight.shape[0] * per, weight.shape[1]
    wanted = (Part("I32", (scales.shape[0], -(-outputs // per))), Part(scales.dtype, (scales.shape[0], outputs)), Part("I32", (inputs,)))
    if wanted != (zeros, scales, groups):
        return f"expected {_listed(wanted)} of {bits} bits, found {_listed((zeros, scales, groups))}"
    if wrong := wrong_groups(inputs, scales.shape[0], sizes):
        return wrong
    grids = (
        Grid("I32", per, 1, weight.shape[0], outputs, 4),
        Grid("I32", 0, per, zeros.shape[0], zeros.shape[1], 4),
        Grid(scales.dtype, 0, 1, scales.shape[0], outputs, size_of(scales.dtype)),
        whole("I32", inputs),
    )
    params = (("bits", bits), ("version", version))
    return Form("gptq", (inputs, outputs), grids, "group of inputs", per, turned=True, params=params)


def _listed(parts: tuple[Part, ...]) -> str:
    return ", ".join(f"{name} {each.dtype} {list(each.shape)}" for name, each in zip(("qzeros", "scales", "g_idx"), parts, strict=True))


def decode(form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    """(code - zero point) x factor, of the input's own group."""
    bits = form.param("bits")
    rows = rect.row + np.arange(rect.rows) * rect.row_step
    words, first = pieces[0], rect.column - pieces[0].region.column
    codes = unpack_rows(words.numbers[:, first : first + rect.columns], bits, rows, words.region.row)
    zeros, factors = _shares(form, rect, pieces)
    return multiply((codes - zeros).astype(np.float32), factors, 1, out, dtype, float(1 << bits))


def _shares(form: Form, rect: Rect, pieces: tuple[Piece, ...]) -> tuple[Bits, Floats]:
    """The zero point and the factor of each of the rectangle's elements, of the input's own group."""
    bits, rows = form.param("bits"), rect.row + np.arange(rect.rows) * rect.row_step
    group = pieces[3].numbers[0][rows].astype(np.intp)
    if len(group) and int(group.max()) >= pieces[2].grid.height:
        raise Unfit(f"g_idx says group {int(group.max())}, there are {pieces[2].grid.height}")
    zeros = unpack_columns(pieces[1].numbers, bits)[group][:, rect.column - pieces[1].region.column * (32 // bits) :][:, : rect.columns]
    if form.param("version") == 1:
        if (zeros == (1 << bits) - 1).any():
            raise Unfit(f"a zero point of {(1 << bits) - 1} in qzeros may mean 0 or {1 << bits} in GPTQ's first format")
        zeros = zeros + 1
    first = rect.column - pieces[2].region.column
    return zeros, pieces[2].factors[group][:, first : first + rect.columns]


def recode(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> Bytes:
    """Nearest codes with these factors and zero points."""
    zeros, factors = _shares(form, rect, pieces)
    bits = form.param("bits")
    return pack_rows(np.clip(nearest_integers(values, factors, 1) + zeros, 0, (1 << bits) - 1), bits)


def rescale(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> tuple[Bytes, Bytes | None]:
    """Its scales follow from activations, not from weights."""
    raise NoRule("GPTQ, whose scales follow from activations")
