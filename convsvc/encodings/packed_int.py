"""Integers of 2, 4 or 8 bits in words of 32 with a factor for each group of columns: compressed-tensors' "pack-quantized".

Kimi-K2-Thinking and its like: `X.weight_packed` I32 [rows, columns / 8] with code + 8, the first column in the lowest bits;
`X.weight_scale` [rows, groups]; `X.weight_shape` [2], whose word about columns counts where the last word is not full;
`X.weight_zero_point` I32 [rows / 8, groups], packed along the rows, where it is not symmetric. (compressors/pack_quantized.) A value is
(code - zero point) x scale in float32, rounded once. Where columns are sorted by activation (`X.weight_g_idx`) it is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import lcm
from typing import Any

import numpy as np

from convsvc.encodings.base import (
    Bits,
    Bytes,
    Claim,
    Form,
    Grid,
    Incomplete,
    Look,
    NoRule,
    Part,
    Piece,
    Rect,
    Unfit,
    Unread,
    Written,
    codes_grid,
    whole,
)
from convsvc.encodings.compressed_tensors import Scheme, config, schemes
from convsvc.encodings.numbers import SCALE_DTYPES, Floats, nearest_integers, round_to_bf16
from convsvc.encodings.numbers import Bits as Numbers
from convsvc.encodings.pairs import look_up_integers
from convsvc.encodings.products import multiply, spread
from convsvc.encodings.words import WIDTHS, pack_columns, unpack_bytes, unpack_rows
from convsvc.tensors.dtypes import size_of

TITLE = "integers of few bits (pack-quantized)"
SIGNS = ("_packed",)
GROUP = 32
TILE = (1, GROUP)
CONFIG = "quantization_config"
WRITTEN_AS, EXPERTS_ONLY = "int4", True


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """Words of 32 bits under compressed-tensors' name."""
    codes, scales, shape, zeros = (stem + end for end in ("_packed", "_scale", "_shape", "_zero_point"))
    packed, scale, said, zero = look.part(codes), look.part(scales), look.part(shape), look.part(zeros)
    if packed is None or packed.dtype != "I32":
        return None
    if scale is None or said is None:
        raise Incomplete(f"{codes} has no {scales if scale is None else shape}")
    if look.part(stem + "_g_idx") is not None:
        raise Unread("integers whose columns are sorted by activation (weight_g_idx of compressed-tensors)")
    told = tuple([each if each.bits else each._replace(bits=4) for each in schemes(look)])
    known = tuple([each for each in told if each.bits in WIDTHS])
    if not known:
        raise Unread(f"integers of {told[0].bits} bits")
    agreeing = tuple([each for each in known if each.symmetric in (None, zero is None)])
    if not agreeing and zero is None:
        raise Incomplete(f"{codes} has no {zeros}, and {CONFIG} says that it is not symmetric")
    if not agreeing:
        raise Unfit(f"{zeros}: expected none, as {CONFIG} says symmetric, found {zero.dtype} {list(zero.shape)}" if zero else zeros)
    form = _form(packed, scale, said, zero, agreeing)
    if isinstance(form, str):
        raise Unfit(f"{', '.join([scales, shape] + ([zeros] if zero else []))}: {form}")
    return Claim(stem, (codes, scales, shape, *([zeros] if zero else [])), form)


@lru_cache(maxsize=4096)
def _form(packed: Part, scale: Part, said: Part, zero: Part | None, told: tuple[Scheme, ...]) -> Form | str:
    """The form, or what is wrong. A configuration that speaks of several layers is judged by which of its groups a row has."""
    if len(packed.shape) != 2 or len(scale.shape) != 2 or scale.shape[0] != packed.shape[0] or scale.dtype not in SCALE_DTYPES:
        return (
            f"expected a factor for each group of columns of {packed.dtype} {list(packed.shape)}, found {scale.dtype} {list(scale.shape)}"
        )
    if said.shape != (2,) or said.dtype not in ("I32", "I64"):
        return f"expected two I32 or I64, found {said.dtype} {list(said.shape)}"
    height, count = packed.shape[0], scale.shape[1]
    fitting = {(int(each.bits or 4), group) for each in told if (group := _group(each, packed.shape[1], count)) is not None}
    if not fitting:
        expected = " or ".join(dict.fromkeys(_words(each, packed.shape[1]) for each in told))
        return f"expected {expected}, as {CONFIG} says, found {count} factors in a row"
    if len(fitting) > 1:
        return f"{count} factors in a row may be of {' or '.join(str(bits) for bits, _ in sorted(fitting))} bits, as {CONFIG} says both"
    ((bits, group),) = fitting
    per = 32 // bits
    columns = packed.shape[1] * per
    grids = [codes_grid("I32", height, packed.shape[1], per), Grid(scale.dtype, 1, max(1, group), height, count, size_of(scale.dtype))]
    grids.append(whole(said.dtype, 2))
    if zero is not None:
        if zero.dtype != "I32" or zero.shape != (-(-height // per), count):
            return f"expected zero points I32 {[-(-height // per), count]}, packed along the rows, found {zero.dtype} {list(zero.shape)}"
        grids.append(Grid("I32", per, max(1, group), zero.shape[0], count, 4))
    unit = per if count == 1 else lcm(per, group)
    shared_by = "row" if count == 1 else f"{group} columns of a row"
    return Form("packed_int", (height, columns), tuple(grids), shared_by, unit, loose=per - 1, params=(("bits", bits),))


def _group(scheme: Scheme, words: int, count: int) -> int | None:
    """How many columns share a factor, of which a row has so many; None where it is not as the scheme says."""
    columns = words * 32 // (scheme.bits or 4)
    if not columns or scheme.group == 0:
        return max(1, columns) if count == 1 or not columns else None
    if scheme.group is None:
        return columns // count if count and columns % count == 0 else None
    return min(scheme.group, columns) if -(-columns // scheme.group) == count else None


def _words(scheme: Scheme, words: int) -> str:
    columns = words * 32 // (scheme.bits or 4)
    group = f"groups of {scheme.group}" if scheme.group else "one factor" if scheme.group == 0 else "equal groups"
    return f"{group} for {columns} columns of {scheme.bits} bits"


def decode(form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    """(code - zero point) x factor."""
    bits = form.param("bits")
    stated = tuple(int(each) for each in pieces[2].numbers[0])
    if stated != form.shape:
        raise Unfit(f"weight_shape says {list(stated)}, expected {list(form.shape)}")
    if _in_pairs(form, rect, dtype) and out.flags.c_contiguous and look_up_integers(rect, pieces[0], pieces[1], out):
        return 0
    values = unpack_bytes(pieces[0].rows(rect), bits, 1 << (bits - 1))[:, : rect.columns]
    factors, shared = spread(pieces[1], rect)
    if len(pieces) > 3:
        values -= _zeros(form, rect, pieces) - (1 << (bits - 1))
    return multiply(np.ascontiguousarray(values), factors, shared, out, dtype, float(1 << bits))


def _in_pairs(form: Form, rect: Rect, dtype: str) -> bool:
    """Whether it is as Kimi publishes it, in whole groups: symmetric, of four bits, BF16 made of BF16 factors."""
    factors = form.grids[1]
    whole_groups = factors.columns % 2 == 0 and rect.column % factors.columns == 0 and rect.columns % factors.columns == 0
    return whole_groups and dtype == "BF16" and factors.dtype == "BF16" and len(form.grids) == 3 and form.param("bits") == 4


def _zeros(form: Form, rect: Rect, pieces: tuple[Piece, ...]) -> Numbers:
    """The zero point of each of the rectangle's elements, as it is stored."""
    codes = unpack_rows(pieces[3].numbers, form.param("bits"), rect.row + np.arange(rect.rows) * rect.row_step, pieces[3].region.row)
    first = rect.column // pieces[3].grid.columns - pieces[3].region.column
    return np.repeat(codes[:, first:], pieces[3].grid.columns, axis=1)[:, rect.column % pieces[3].grid.columns :][:, : rect.columns]


def recode(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> Bytes:
    """Nearest codes with these factors and zero points."""
    bits = form.param("bits")
    zeros = _zeros(form, rect, pieces) if len(pieces) > 3 else 1 << (bits - 1)
    codes = np.clip(nearest_integers(values, *spread(pieces[1], rect)) + zeros, 0, (1 << bits) - 1)
    return pack_columns(codes, bits)


def rescale(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> tuple[Bytes, Bytes | None]:
    """amax / 7 (127 of eight bits, 1 of two), as `encode`; where the factors are not BF16, rounded to them before codes are chosen."""
    if len(pieces) > 3:
        raise NoRule("integers with zero points")
    bits, group, dtype = form.param("bits"), form.grids[1].columns, form.grids[1].dtype
    padded = np.zeros((len(values), -(-values.shape[1] // group) * group), np.float32)
    padded[:, : values.shape[1]] = values
    most = (1 << (bits - 1)) - 1
    scales = np.maximum(np.abs(padded.reshape(len(values), -1, group)).max(axis=-1) / np.float32(most), np.float32(1e-10))
    if dtype == "F32":
        return scales.view(np.uint8), None
    if dtype != "BF16":
        raise NoRule(f"integers with factors of {dtype}")
    codes = np.clip(np.rint(values / np.repeat(scales, group, axis=1)[:, : values.shape[1]]), -most - 1, most) + (most + 1)
    return round_to_bf16(scales).view(np.uint8).reshape(len(values), -1), pack_columns(codes, bits)


def written(name: str, shape: tuple[int, ...]) -> Written | None:
    """As Kimi-K2-Thinking: four bits, groups of 32, BF16 scales, symmetric."""
    if len(shape) != 2 or not all(shape) or shape[1] % GROUP or not name.endswith(".weight"):
        return None
    parts = (Part("I32", (shape[0], shape[1] // 8)), Part("BF16", (shape[0], shape[1] // GROUP)), Part("I32", (2,)))
    form = _form(*parts, None, (Scheme(4, GROUP),))
    assert isinstance(form, Form), "its own parts fit"
    return Written(form, (name + "_packed", name + "_scale", name + "_shape"), parts)


def encode(form: Form, values: Floats, largest: float = 0.0) -> tuple[Bytes, ...]:
    """scale = amax / 7 in float32, code = round(weight / scale), and the scale then stored as BF16: Megatron-Bridge's quantize_to_int4."""
    groups = values.reshape(len(values), -1, GROUP)
    scales = np.maximum(np.abs(groups).max(axis=-1) / np.float32(7), np.float32(1e-10))
    codes = (np.clip(np.rint(groups / scales[..., None]), -8, 7) + 8).astype(np.uint8).reshape(values.shape)
    stated = np.array(form.shape, np.int32).view(np.uint8).reshape(1, -1)
    return codes[:, 0::2] | codes[:, 1::2] << np.uint8(4), round_to_bf16(scales).view(np.uint8), stated


def words(kept: Sequence[str]) -> Mapping[str, Any]:
    """As Kimi-K2-Thinking publishes it."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True, "dynamic": False}
    return config("pack-quantized", weights, kept)
