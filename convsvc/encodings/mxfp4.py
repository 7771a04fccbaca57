"""MXFP4: floats of four bits, two a byte, with a power of two for every 32 numbers of a row (OCP Microscaling Formats 1.0).

Three ways to write it. gpt-oss (transformers integrations/mxfp4.py): `X_blocks` U8 [expert, rows, groups, 16] and `X_scales` U8
[expert, rows, groups]; the dense weight X is turned, [expert, columns, rows]. DeepSeek-V4 (its inference/model.py) and ModelOpt:
`X.weight` I8 or U8 [rows, columns / 2] with `X.scale` or `X.weight_scale` [rows, columns / 32], F8_E8M0 or U8. compressed-tensors
(mxfp4-pack-quantized; Kimi-K3): `X.weight_packed` U8 and `X.weight_scale` U8. An exponent of 255 is a NaN, as the standard says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from convsvc.encodings.base import Bits, Bytes, Claim, Form, Grid, Incomplete, Look, Part, Piece, Rect, Unfit, Written, codes_grid
from convsvc.encodings.compressed_tensors import config
from convsvc.encodings.numbers import Floats, ceil_exponents, divided, pack_pairs, round_to_e2m1
from convsvc.encodings.pairs import look_up
from convsvc.encodings.products import spread

TITLE = "MXFP4"
SIGNS = ("_blocks", "_packed", ".scale", "_scale", "_scale_inv")
GROUP = 32
TILE = (1, GROUP)
WRITTEN_AS, EXPERTS_ONLY = "mxfp4", True
BYTES, EXPONENTS = ("U8", "I8"), ("U8", "F8_E8M0")


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """Bytes, and exponents beside them under the name of one of the three."""
    if sign == "_blocks":
        return _of_blocks(stem, look)
    name = stem + (".weight" if sign == ".scale" else "")
    codes, scales = (stem + sign, stem + "_scale") if sign == "_packed" else (name, stem + sign)
    weight, scale = look.part(codes), look.part(scales)
    if weight is None or weight.dtype not in BYTES or (sign == "_packed" and look.part(stem + "_global_scale") is not None):
        return None
    if scale is None:
        raise Incomplete(f"{codes} has no {scales}")
    if scale.dtype not in EXPONENTS:
        return None
    form = _form(weight, scale)
    if form is None:
        expected = [*weight.shape[:-1], 2 * weight.shape[-1] // GROUP if weight.shape else 1]
        raise Unfit(
            f"{scales}: expected an exponent for every {GROUP} numbers, {expected} for {weight.dtype} {list(weight.shape)} of two numbers "
            f"a byte, found {scale.dtype} {list(scale.shape)}"
        )
    return Claim(name, (codes, scales), form)


def _of_blocks(stem: str, look: Look) -> Claim | None:
    blocks, scales = look.part(stem + "_blocks"), look.part(stem + "_scales")
    if blocks is None or blocks.dtype != "U8" or len(blocks.shape) < 3 or blocks.shape[-1] != GROUP // 2:
        return None
    if scales is None:
        raise Incomplete(f"{stem}_blocks has no {stem}_scales")
    if scales.dtype not in EXPONENTS or scales.shape != blocks.shape[:-1]:
        found = f"{scales.dtype} {list(scales.shape)}"
        raise Unfit(f"{stem}_scales: expected U8 {list(blocks.shape[:-1])}, an exponent for each block of {stem}_blocks, found {found}")
    return Claim(stem, (stem + "_blocks", stem + "_scales"), _grids(blocks.shape[:-2], blocks.shape[-2], blocks.dtype, scales.dtype, True))


@lru_cache(maxsize=4096)
def _form(weight: Part, scale: Part) -> Form | None:
    *rows, width = weight.shape or (0,)
    if len(weight.shape) < 2 or 2 * width % GROUP or scale.shape != (*rows, 2 * width // GROUP):
        return None
    return _grids(tuple(rows), 2 * width // GROUP, weight.dtype, scale.dtype)


@lru_cache(maxsize=4096)
def _grids(rows: tuple[int, ...], groups: int, codes: str, scales: str, turned: bool = False) -> Form:
    height = rows[-1]
    grids = (codes_grid(codes, height, groups * GROUP // 2, 2, 1), Grid(scales, 1, GROUP, height, groups, 1))
    return Form("mxfp4", (*rows, groups * GROUP), grids, f"{GROUP} columns of a row", GROUP, turned)


def decode(form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    """Codes and exponents looked up together."""
    return look_up(rect, pieces[0], pieces[1], out, dtype)


def written(name: str, shape: tuple[int, ...]) -> Written | None:
    """As compressed-tensors does."""
    if len(shape) != 2 or not all(shape) or shape[1] % GROUP or not name.endswith(".weight"):
        return None
    parts = (Part("U8", (shape[0], shape[1] // 2)), Part("U8", (shape[0], shape[1] // GROUP)))
    return Written(_grids(shape[:1], shape[1] // GROUP, "U8", "U8"), (name + "_packed", name + "_scale"), parts)


def encode(form: Form, values: Floats, largest: float = 0.0) -> tuple[Bytes, ...]:
    """scale 2^ceil(log2(amax / 6)), codes to nearest, ties to even, the sign kept: triton_kernels' default (numerics_details/mxfp.py)."""
    groups = values.reshape(len(values), -1, GROUP)
    exponents = ceil_exponents(np.abs(groups).max(axis=-1) / np.float32(6))
    scaled = divided(values, _powers(exponents), GROUP)
    return pack_pairs(round_to_e2m1(scaled)), exponents


def _powers(exponents: npt.NDArray[np.uint8]) -> Floats:
    """The numbers of exponents that the rule gives; 0 stands for a group of zeros."""
    powers: Floats = (exponents.astype(np.uint32) << np.uint32(23)).view(np.float32)
    return powers


def recode(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> Bytes:
    """Nearest codes with these exponents."""
    return pack_pairs(round_to_e2m1(divided(values, *spread(pieces[1], rect))))


def rescale(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> tuple[Bytes, Bytes | None]:
    """As `encode`."""
    codes, exponents = encode(form, values)
    return exponents, codes


def words(kept: Sequence[str]) -> Mapping[str, Any]:
    """As Kimi-K3 publishes it."""
    weights = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": GROUP, "symmetric": True, "dynamic": False}
    return config("mxfp4-pack-quantized", {**weights, "scale_dtype": "torch.uint8"}, kept)
