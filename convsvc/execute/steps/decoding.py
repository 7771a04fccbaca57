"""Where block-quantised numbers lie in the input buffer, and their scales. Pure; `kernels.dequantising` does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convsvc.execute.steps.regions import Range
from convsvc.plan.records import BlockScale, PlannedTensor
from convsvc.tensors.dtypes import size_of


@dataclass(frozen=True, slots=True)
class Decoding:
    """Runs of a quantised tensor in the input buffer, and where the scales of all their rows lie there.

    `runs` are in elements: each has room for elements of `block.dtype` from byte `start` + their size x `at` of the buffer on, and its
    float8 numbers at the end of it. The source's tensor number `tensor` has `columns`; `scale_row` is the first of the rows of scales,
    of `scale_columns` each, which lie at byte `scales_start` of the buffer and `scales_from` of the scale tensor.
    """

    tensor: int
    runs: tuple[Range, ...]
    start: int
    dtype: str
    columns: int
    block: BlockScale
    scale_row: int
    scale_columns: int
    scale_dtype: str
    scales_from: int
    scales_bytes: int
    scales_start: int


def lay_decoding(
    tensor: int, stored: PlannedTensor, scales: PlannedTensor, runs: Sequence[Range], start: int, scales_start: int
) -> Decoding:
    """The decoding of these runs of `stored`, the source's number `tensor`; rooms are counted from byte `start` of the input buffer."""
    block = stored.scale
    assert block is not None, "only what has scales is decoded"
    columns, scale_columns = stored.shape[1], scales.shape[1]
    first = min(run.start for run in runs) // columns // block.rows
    last = (max(run.start + run.count for run in runs) - 1) // columns // block.rows
    row_bytes = scale_columns * size_of(scales.dtype)
    return Decoding(
        tensor,
        tuple(runs),
        start,
        stored.dtype,
        columns,
        block,
        first,
        scale_columns,
        scales.dtype,
        scales_from=first * row_bytes,
        scales_bytes=(last + 1 - first) * row_bytes,
        scales_start=scales_start,
    )
