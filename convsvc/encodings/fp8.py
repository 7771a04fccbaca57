"""Float8 weights with factors: for each block of rows and columns, for each row, or one for the tensor.

In blocks, as DeepSeek-V3 publishes it (its inference/fp8_cast_bf16.py): `X.weight` in float8 and `X.weight_scale_inv` with a factor for
each 128 x 128 block, [ceil(rows / 128), ceil(columns / 128)]; the last of a row or column is short. DeepSeek-V4 calls it `X.scale`, of
F8_E8M0. In rows, as GLM-4.5-FP8 (compressed-tensors, strategy "channel"): `X.weight_scale` [rows, 1] or [rows]. One for the tensor, as
Ministral 3 (`X.weight_scale_inv` []) and ModelOpt (`X.weight_scale` [] or [1]). Which it is shows in the scale's shape, not in its name;
whatever its name, a scale is a factor. Experts in one tensor [expert, rows, columns] have their own factors each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from convsvc.encodings.base import (
    Bytes,
    Claim,
    Form,
    Grid,
    Incomplete,
    Look,
    Missaid,
    NoRule,
    Part,
    Piece,
    Rect,
    Unfit,
    Written,
    codes_grid,
    fits,
)
from convsvc.encodings.numbers import (
    SCALE_DTYPES,
    Floats,
    ceil_exponents,
    divided,
    round_to_bf16,
    round_to_e4m3,
    round_to_e5m2,
)
from convsvc.encodings.products import multiply_float8 as decode
from convsvc.encodings.products import spread
from convsvc.tensors.dtypes import size_of

__all__ = ["EXPERTS_ONLY", "SIGNS", "TILE", "TITLE", "WRITTEN_AS", "claim", "decode", "encode", "recode", "rescale", "words", "written"]

TITLE = "float8"
FLOAT8 = ("F8_E4M3", "F8_E5M2")
# How a scale is called beside `X.weight`: by DeepSeek V3 and Qwen3, by compressed-tensors and ModelOpt, by DeepSeek V4.
SIGNS = ("_scale_inv", "_scale", ".scale")
DEFAULT = TILE = (128, 128)
WRITTEN_AS, EXPERTS_ONLY = "fp8-block", False


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """A name that others bear too counts only beside a float8 weight; `_scale_inv` is nothing else."""
    name = stem + (".weight" if sign == ".scale" else "")
    weight, scale = look.part(name), look.part(stem + sign)
    assert scale is not None, "the sign is there"
    if weight is None:
        if sign == "_scale_inv" and stem.endswith("weight"):
            raise Incomplete(f"{stem}{sign} scales {name}, which is not there")
        return None
    if weight.dtype not in FLOAT8:
        if sign == "_scale_inv" and weight.dtype not in ("U8", "I8"):
            raise Unfit(f"{name}: expected float8 with two axes, found {weight.dtype} {list(weight.shape)}")
        return None
    if scale.dtype == "U8":
        return None
    form = _form(weight, scale, _blocks(look))
    if isinstance(form, str):
        raise Unfit(f"{name if form.startswith('expected float8') else stem + sign}: {form}")
    return Claim(name, (name, stem + sign), form)


def _blocks(look: Look) -> tuple[tuple[int, int], ...]:
    """The block sizes that the configuration speaks of; DeepSeek's where it speaks of none."""
    said = [*look.said("weight_block_size"), *look.said("block_structure")]
    for size in said:
        if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(each, int) and each > 0 for each in size):
            raise Missaid(f"weight_block_size is {size!r}; it must be two numbers, rows and columns")
    return tuple(dict.fromkeys((int(rows), int(columns)) for rows, columns in said)) or (DEFAULT,)


@lru_cache(maxsize=4096)
def _form(weight: Part, scale: Part, blocks: tuple[tuple[int, int], ...]) -> Form | str:
    """The form, or what is wrong."""
    if len(weight.shape) not in (2, 3):
        return f"expected float8 with two axes, found {weight.dtype} {list(weight.shape)}"
    shares = _shares(weight, scale.shape, (*blocks, (1, 32)) if scale.dtype == "F8_E8M0" else blocks)
    if shares is None or scale.dtype not in SCALE_DTYPES:
        expected = [*weight.shape[:-2], *(-(-size // by) for size, by in zip(weight.shape[-2:], blocks[0], strict=True))]
        return f"expected F32 {expected}, found {scale.dtype} {list(scale.shape)}"
    return _made(weight, scale.dtype, *shares)


def _shares(weight: Part, scale: tuple[int, ...], blocks: tuple[tuple[int, int], ...]) -> tuple[int, int, str] | None:
    """The rows and columns that share a factor, as the scale's shape says, and in words; blocks where it is that of nothing else."""
    rows, columns = max(1, weight.shape[-2]), max(1, weight.shape[-1])
    if scale in ((), (1,)) and len(weight.shape) == 2:
        return rows, columns, "tensor"
    if scale[:1] == weight.shape[:1] and len(weight.shape) == 3 and scale[1:] in ((), (1,), (1, 1)):
        return rows, columns, "expert"
    if scale in (weight.shape[:-1], (*weight.shape[:-1], 1)):
        return 1, columns, "row"
    return next(((*block, f"{block[0]} x {block[1]} block") for block in blocks if fits(weight.shape, *block, scale)), None)


def _made(weight: Part, scale_dtype: str, rows: int, columns: int, shared_by: str) -> Form:
    height, width = weight.shape[-2:]
    factors = Grid(scale_dtype, rows, columns, -(-height // rows), -(-width // columns), size_of(scale_dtype))
    return Form("fp8", weight.shape, (codes_grid(weight.dtype, height, width), factors), shared_by)


def written(name: str, shape: tuple[int, ...]) -> Written | None:
    """In blocks of 128 x 128, as DeepSeek-V3; matrices with elements only."""
    if len(shape) != 2 or not all(shape) or not name.endswith(".weight"):
        return None
    weight, scale = Part("F8_E4M3", shape), Part("F32", tuple(-(-size // by) for size, by in zip(shape, TILE, strict=True)))
    return Written(_made(weight, "F32", *TILE, "128 x 128 block"), (name, name + "_scale_inv"), (weight, scale))


def encode(form: Form, values: Floats, largest: float = 0.0) -> tuple[Bytes, ...]:
    """scale = amax / 448, code = weight / scale, in float32: Megatron-Bridge's quantize_fp8_e4m3fn_like_scale. Zeros have scale 1."""
    rows, columns = values.shape
    blocks = _blocked(form, values)
    scales = _scales(blocks)
    with np.errstate(all="ignore"):  # NaN stays NaN
        codes = round_to_e4m3((blocks / scales[:, None, :, None]).reshape(blocks.shape[0] * blocks.shape[1], -1))
    return np.ascontiguousarray(codes[:rows, :columns]), scales.view(np.uint8).reshape(len(scales), -1)


def _blocked(form: Form, values: Floats) -> Floats:
    """The values as [blocks down, rows, blocks across, columns], with zeros where the last ones are short."""
    (rows, columns), tile = values.shape, (form.grids[1].rows, form.grids[1].columns)
    height, width = (-(-size // by) for size, by in zip(values.shape, tile, strict=True))
    padded = values
    if (rows, columns) != (height * tile[0], width * tile[1]):
        padded = np.zeros((height * tile[0], width * tile[1]), np.float32)
        padded[:rows, :columns] = values
    return padded.reshape(height, tile[0], width, tile[1])


def _scales(blocks: Floats, largest: float = 448.0) -> Floats:
    scales: Floats = np.abs(blocks).max(axis=(1, 3)) / np.float32(largest)
    scales[scales == 0] = 1
    return scales


def recode(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> Bytes:
    """Nearest codes with these factors."""
    nearest = round_to_e4m3 if form.grids[0].dtype == "F8_E4M3" else round_to_e5m2
    return nearest(divided(values, *spread(pieces[1], rect)))


def rescale(form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> tuple[Bytes, Bytes | None]:
    """amax / 448 in float32, rounded to the factors' type as compressed-tensors does; of F8_E8M0 the power of two above it."""
    dtype = form.grids[1].dtype
    scales = _scales(_blocked(form, values), 448.0 if form.grids[0].dtype == "F8_E4M3" else 57344.0)
    if dtype == "F8_E8M0":
        return ceil_exponents(scales), None
    if dtype == "BF16":
        return round_to_bf16(scales).view(np.uint8).reshape(len(scales), -1), None
    if dtype != "F32":
        raise NoRule(f"float8 with factors of {dtype}")
    return scales.view(np.uint8).reshape(len(scales), -1), None


def words(kept: Sequence[str]) -> Mapping[str, Any]:
    """As DeepSeek-V3 and Qwen3 publish it; module names are whole, as vLLM compares them."""
    said = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": list(TILE)}
    return {**said, "modules_to_not_convert": list(kept)}
