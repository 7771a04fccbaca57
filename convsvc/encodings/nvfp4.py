"""NVFP4: floats of four bits, two a byte, with a float8 factor for every 16 numbers of a row and a float32 factor for the tensor.

ModelOpt (quantization/qtensor/nvfp4_tensor.py): `X.weight` U8 [rows, columns / 2], `X.weight_scale` F8_E4M3 [rows, columns / 16],
`X.weight_scale_2` F32 []; a value is code x (weight_scale x weight_scale_2). compressed-tensors (nvfp4-pack-quantized):
`X.weight_packed`, `X.weight_scale`, and `X.weight_global_scale` F32 [1], which divides: code x (weight_scale / weight_global_scale).
Both in float32, rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
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
    Written,
    codes_grid,
    whole,
)
from convsvc.encodings.numbers import NUMBERS, Floats, divided, pack_pairs, round_to_e2m1, round_to_e4m3
from convsvc.encodings.pairs import ONE, look_up
from convsvc.encodings.products import spread

TITLE = "NVFP4"
SIGNS = ("_scale_2", "_packed", "_scale")
GROUP = 16
TILE = (1, GROUP)
WRITTEN_AS, EXPERTS_ONLY = "nvfp4", True


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """Bytes with a float8 scale beside them."""
    packed = sign == "_packed"
    codes, scales, second = stem + ("_packed" if packed else ""), stem + "_scale", stem + ("_global_scale" if packed else "_scale_2")
    weight, scale, last = look.part(codes), look.part(scales), look.part(second)
    if weight is None or weight.dtype != "U8" or (packed and last is None and (scale is None or scale.dtype != "F8_E4M3")):
        return None
    if sign == "_scale" and (scale is None or scale.dtype != "F8_E4M3" or last is not None):
        return None  # where there is a second scale, that is its sign
    if scale is None or last is None:
        raise Incomplete(f"{codes} has no {scales if scale is None else second}")
    form = _form(weight, scale, last, packed)
    if form is None:
        expected = [*weight.shape[:-1], 2 * weight.shape[-1] // GROUP] if weight.shape else [1]
        raise Unfit(
            f"{scales}, {second}: expected F8_E4M3 {expected} and one F32 for U8 {list(weight.shape)} of two numbers a byte, "
            f"found {scale.dtype} {list(scale.shape)} and {last.dtype} {list(last.shape)}"
        )
    return Claim(stem, (codes, scales, second), form)


@lru_cache(maxsize=4096)
def _form(weight: Part, scale: Part, second: Part, divides: bool) -> Form | None:
    if (
        len(weight.shape) != 2
        or 2 * weight.shape[1] % GROUP
        or prod(second.shape) != 1
        or (scale.dtype, second.dtype) != ("F8_E4M3", "F32")
    ):
        return None
    height, columns = weight.shape[0], 2 * weight.shape[1]
    if scale.shape != (height, columns // GROUP):
        return None
    grids = (codes_grid("U8", height, columns // 2, 2, 1), Grid("F8_E4M3", 1, GROUP, height, columns // GROUP, 1), whole("F32", 1))
    return Form(
        "nvfp4", (height, columns), grids, f"{GROUP} columns of a row, and one for the tensor", GROUP, params=(("divides", divides),)
    )


def decode(form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    """Codes and factors looked up together, in a table that the second scale makes."""
    second = int(pieces[2].numbers[0, 0])
    return look_up(rect, pieces[0], pieces[1], out, dtype, (ONE, second) if form.param("divides") else (second, ONE))


def written(name: str, shape: tuple[int, ...]) -> Written | None:
    """As ModelOpt does."""
    if len(shape) != 2 or not all(shape) or shape[1] % GROUP or not name.endswith(".weight"):
        return None
    parts = (Part("U8", (shape[0], shape[1] // 2)), Part("F8_E4M3", (shape[0], shape[1] // GROUP)), Part("F32", ()))
    form = _form(*parts, False)
    assert form is not None, "its own parts fit"
    return Written(form, (name, name + "_scale", name + "_scale_2"), parts)


def encode(form: Form, values: Floats, largest: float = 0.0) -> tuple[Bytes, ...]:
    """scale_2 = amax / (6 x 448); a group's scale amax / (6 x scale_2), between 2^-9 and 448, to float8, 1 for zeros; codes to nearest,
    ties to even, zeros without a sign (ModelOpt, NVFP4QTensor.quantize). Of a weight of zeros scale_2 is 1."""
    second = np.float32(largest) / np.float32(6 * 448) or np.float32(1)
    groups = np.abs(values.reshape(len(values), -1, GROUP)).max(axis=-1)
    scales = groups / (np.float32(6) * second)
    chosen = round_to_e4m3(np.where(scales == 0, np.float32(1), np.clip(scales, 2.0**-9, 448)).astype(np.float32))
    factors = NUMBERS["F8_E4M3"][chosen] * second
    codes = round_to_e2m1(divided(values + np.float32(0), factors, GROUP))
    return pack_pairs(codes), chosen, np.array([[second]], np.float32).view(np.uint8)


def words(kept: Sequence[str]) -> Mapping[str, Any]:
    """As ModelOpt says it of weights alone: without scales of activations, which only a calibration knows."""
    weights = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": GROUP}
    return {
        "quant_method": "modelopt",
        "quant_algo": "W4A16_NVFP4",
        "config_groups": {"group_0": {"input_activations": None, "weights": weights, "targets": ["Linear"]}},
        "ignore": list(kept),
    }


def recode(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> Bytes:
    """Nearest codes with these factors."""
    factors, shared = spread(pieces[1], rect)
    return pack_pairs(round_to_e2m1(divided(values, _both(form, factors, _second(pieces)), shared)))


def rescale(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> tuple[Bytes, Bytes | None]:
    """amax / 6 over the tensor's own factor, between 2^-9 and 448 (ModelOpt, qtensor/nvfp4_tensor.py); 1 for zeros."""
    wanted = np.abs(values.reshape(len(values), -1, GROUP)).max(axis=-1) / np.float32(6)
    second = _second(pieces)
    with np.errstate(all="ignore"):
        scales = wanted * second if form.param("divides") else wanted / second
    if not (scales <= 448 * (1 + 2.0**-5)).all():
        raise NoRule("NVFP4 whose values have outgrown the tensor's factor")
    return round_to_e4m3(np.where(wanted == 0, np.float32(1), np.clip(scales, 2.0**-9, 448)).astype(np.float32)), None


def _second(pieces: tuple[Piece, ...]) -> np.float32:
    second: np.float32 = pieces[2].numbers.view(np.float32)[0, 0]
    return second


def _both(form: Form, factors: Floats, second: np.float32) -> Floats:
    with np.errstate(all="ignore"):
        made: Floats = factors / second if form.param("divides") else factors * second
    return made
