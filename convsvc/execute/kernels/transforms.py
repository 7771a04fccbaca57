"""Value transforms: casts between float types, and the LoRA merge. On bit patterns as `copying.view_bits` gives them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from convsvc.encodings.numbers import INFINITY, round_to_bf16, widen
from convsvc.errors import PlanError
from convsvc.execute.kernels.copying import UNSIGNED, Bits, strided_copy, view_bits
from convsvc.execute.steps.merges import DenseOperand, Gather, Merge
from convsvc.tensors.dtypes import FLOATS, size_of

Floats = npt.NDArray[np.float32]
NUMPY: dict[str, Any] = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
# What finite numbers of a type can become infinite in.
NARROWER = {"F64": ("F32", "BF16", "F16"), "F32": ("BF16", "F16"), "BF16": ("F16",)}
# Casts work on pieces of this many elements, so that their intermediate arrays stay in the cache and in memory used before.
PIECE = 1 << 15


def cast(values: Bits, source: str, target: str) -> Bits:
    """The bit patterns of `values` after a cast between F16, BF16, F32 and F64, rounded to nearest even.

    By way of F32, as torch does.
    A NaN stays a NaN and keeps the payload bits that fit, so that widening can be undone bit for bit.

    >>> [hex(x) for x in cast(np.array([0x3F808000, 0x7F800001], np.uint32), "F32", "BF16")]
    ['0x3f80', '0x7fc0']

    Raises PlanError for other dtypes.
    """
    if source == target:
        return values
    if source not in FLOATS or target not in FLOATS:
        raise PlanError(f"no cast from {source} to {target}", do=f"casts are between {', '.join(sorted(FLOATS))}")
    with np.errstate(all="ignore"):  # overflow to infinity is what a cast does
        if target == "F64":
            return widen(values, source).astype(np.float64).view(np.uint64)
        narrow = widen(values, source)
        if target == "BF16":
            return round_to_bf16(narrow)
        return narrow.astype(NUMPY[target]).view(UNSIGNED[size_of(target)])


def cast_copy(target: Bits, source: Bits, source_dtype: str, target_dtype: str) -> int:
    """Copies with a cast, piece by piece; same shape, any strides. Returns how many finite numbers have become infinite."""
    if source_dtype == target_dtype:
        strided_copy(target, source)
        return 0
    if source.size > PIECE and source.shape[0] > 1:
        rows = max(1, PIECE * source.shape[0] // source.size)
        starts = range(0, source.shape[0], rows)
        return sum([cast_copy(target[at : at + rows], source[at : at + rows], source_dtype, target_dtype) for at in starts])
    if source.size > PIECE and source.ndim > 1:
        return cast_copy(target[0], source[0], source_dtype, target_dtype)
    values = np.ascontiguousarray(source)
    made = cast(values, source_dtype, target_dtype)
    strided_copy(target, made.reshape(source.shape))
    return count_overflows(values, source_dtype, made, target_dtype)


def count_overflows(values: Bits, source: str, made: Bits, target: str) -> int:
    """How many finite `values` are infinite in `made`, which is what a cast gave.

    >>> values = np.array([70000, np.inf, np.nan, 1], np.float32).view(np.uint32)
    >>> count_overflows(values, "F32", cast(values, "F32", "F16"), "F16")
    1
    """
    # As a rule there is nothing near: one look at the largest costs 4 us beside 60 to 200 for casting 32768 numbers.
    if target not in NARROWER.get(source, ()) or not made.size or _magnitudes(made).max() < INFINITY[target]:
        return 0
    return _count_infinite(made, target) - _count_infinite(values, source)


def _count_infinite(values: Bits, dtype: str) -> int:
    return int(np.count_nonzero(_magnitudes(values) == INFINITY[dtype]))


def _magnitudes(values: Bits) -> Bits:
    """The bits without their signs: they are ordered as the numbers are."""
    magnitudes: Bits = values & values.dtype.type(np.iinfo(values.dtype).max >> 1)
    return magnitudes


def merge_lora(merge: Merge, buffer: npt.NDArray[np.uint8]) -> Floats:
    """The merged tile: base + scale * B @ A, in float32, from the input buffer. In the order of the logical tensor's axes."""
    base = _dense(merge.shape, merge.base, buffer)
    a = _aligned(merge.a, len(merge.shape), buffer)
    b = _aligned(merge.b, len(merge.shape), buffer)
    product = _product(a, b)
    product *= np.float32(merge.scale)
    base += product
    return base


def _dense(shape: tuple[int, ...], gathers: tuple[Gather, ...], buffer: npt.NDArray[np.uint8]) -> Floats:
    held = sum(prod(gather.shape) for gather in gathers)
    dense = (np.empty if held == prod(shape) else np.zeros)(shape, np.float32)
    flat = dense.reshape(-1).view(np.uint8)
    for gather in gathers:
        source = view_bits(buffer, gather.source_start, gather.shape, gather.source_strides, gather.source_dtype)
        target = view_bits(flat, gather.target_at * 4, gather.shape, gather.target_strides, "F32")
        cast_copy(target, source, gather.source_dtype, "F32")
    return dense


def _aligned(operand: DenseOperand, ndim: int, buffer: npt.NDArray[np.uint8]) -> Floats:
    """The operand with one axis for each of the tile's (length 1 where it has none), and the rank axis last."""
    dense = _dense(operand.shape, operand.gathers, buffer)
    present = sorted((axis, i) for i, axis in enumerate(operand.axes) if axis is not None)
    rank = operand.axes.index(None)
    ordered = dense.transpose(*(i for _, i in present), rank)
    shape = [1] * ndim + [operand.shape[rank]]
    for axis, i in present:
        shape[axis] = operand.shape[i]
    return ordered.reshape(shape)


def _product(a: Floats, b: Floats) -> Floats:
    """sum over the last axis of a * b, both broadcast over the other axes; as matrix products."""
    axes = range(a.ndim - 1)
    batch = [axis for axis in axes if a.shape[axis] > 1 and b.shape[axis] > 1]
    rows = [axis for axis in axes if axis not in batch and b.shape[axis] > 1]
    columns = [axis for axis in axes if axis not in batch and axis not in rows]
    order = [*batch, *rows, *columns]
    lengths = [max(a.shape[axis], b.shape[axis]) for axis in order]
    head = [a.shape[axis] for axis in batch]
    left = b.transpose(*order, b.ndim - 1).reshape(*head, -1, b.shape[-1])
    right = a.transpose(*order, a.ndim - 1).reshape(*head, -1, a.shape[-1])
    product = np.matmul(left, np.swapaxes(right, -1, -2)).reshape(lengths)
    back: Floats = product.transpose(np.argsort(order).tolist())
    return back
