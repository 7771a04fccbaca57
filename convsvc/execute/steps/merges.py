"""Compiles a value transform (LoRA) for one tile: what else to read, and how the operands lie. Pure.

A merged tile is computed densely in float32, in the order of the logical tensor's axes, and copied from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from convsvc.errors import PlanError
from convsvc.execute.steps.checks import Check, compile_checks
from convsvc.execute.steps.held import HeldViews
from convsvc.execute.steps.inputs import BufferSpot, Reading, lay_reads
from convsvc.execute.steps.matching import ViewIndex
from convsvc.execute.steps.strides import dense_strides, merge_axes
from convsvc.plan.records import Operand, Place, PlannedTensor, Transform, View
from convsvc.tensors.boxes import Box

# Buffers of a merge: the tile and the product, in float32.
MERGE_BYTES_PER_ELEMENT = 8


@dataclass(frozen=True, slots=True)
class Gather:
    """A strided copy (with cast to float32) from the input buffer into a dense float32 array, both in elements of their own."""

    shape: tuple[int, ...]
    source_start: int
    source_strides: tuple[int, ...]
    source_dtype: str
    target_at: int
    target_strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DenseOperand:
    """An operand's part for the tile: its shape, its axes (of the transfer's tensor; None for the rank), and how it is gathered."""

    shape: tuple[int, ...]
    axes: tuple[int | None, ...]
    gathers: tuple[Gather, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """tile + scale * sum over rank of B * A, for a tile of `shape`.

    `view` is the tile as the only source view of the step, `reading` the step's reads with the operands' added; `checks` are of the
    operands' copies.
    """

    shape: tuple[int, ...]
    scale: float
    base: tuple[Gather, ...]
    a: DenseOperand
    b: DenseOperand
    view: View
    reading: Reading
    checks: tuple[Check, ...] = ()

    @property
    def buffer_bytes(self) -> int:
        return MERGE_BYTES_PER_ELEMENT * prod(self.shape) + 4 * (prod(self.a.shape) + prod(self.b.shape))


def compile_merge(tile: Box, transform: Transform, held: Sequence[View], base: Reading, source: Sequence[PlannedTensor]) -> Merge:
    """The merge that computes `tile` from its base (`held` views as laid out in `base`) and the transform's operands.

    Raises PlanError for a transform that is not known.
    """
    if transform.kind != "lora" or len(transform.operands) != 2:
        raise PlanError(
            f"unknown value transform {transform.kind!r} with {len(transform.operands)} operands", do='known is "lora" with A and B'
        )
    maps = transform.params["axes"]
    a, reading_a, checks_a = _operand(tile, transform.operands[0], maps[0], base.size_bytes, source)
    b, reading_b, checks_b = _operand(tile, transform.operands[1], maps[1], reading_a.size_bytes, source)
    spot = BufferSpot(0, dense_strides(tile.shape), "F32", held[0].places[0].tensor)
    parts = (base, reading_a, reading_b)
    reads, decodings = ([each for part in parts for each in part.reads], [each for part in parts for each in part.decodings])
    reading = Reading(tuple(reads), (spot,), reading_b.size_bytes, tuple(decodings), computed=True)
    view = View(tile.starts, tile.stops, spot.strides, (Place(0, 0),))
    scale = float(transform.params["scale"])
    return Merge(tile.shape, scale, _gathers(tile, held, base), a, b, view, reading, (*checks_a, *checks_b))


def _operand(
    tile: Box, operand: Operand, axes: Sequence[int | None], start: int, source: Sequence[PlannedTensor]
) -> tuple[DenseOperand, Reading, list[Check]]:
    box = Box(
        tuple(0 if axis is None else tile.starts[axis] for axis in axes),
        tuple(size if axis is None else tile.stops[axis] for axis, size in zip(axes, operand.sizes, strict=True)),
    )
    views = list(ViewIndex(operand.views).meeting(box))
    reading = lay_reads(views, source, start)
    checks = compile_checks(operand.name, ViewIndex(operand.checks), box, HeldViews(views, reading), source, "") if operand.checks else []
    return DenseOperand(box.shape, tuple(axes), _gathers(box, views, reading)), reading, checks


def _gathers(box: Box, views: Sequence[View], reading: Reading) -> tuple[Gather, ...]:
    """Copies of the views, which lie inside the box, into the dense box."""
    dense = dense_strides(box.shape)
    gathers = []
    for view, spot in zip(views, reading.spots, strict=True):
        lengths = tuple(stop - start for start, stop in zip(view.starts, view.stops, strict=True))
        at = sum((a - b) * stride for a, b, stride in zip(view.starts, box.starts, dense, strict=True))
        shape, strides, dense_merged = merge_axes(lengths, spot.strides, dense)
        gathers.append(Gather(shape, spot.start, strides, spot.dtype, at, dense_merged))
    return tuple(gathers)
