"""Rows made numbers: stored tensors whose blocks are boxes, offsets and strides. Pure.

A block says: this box of that logical tensor lies in this stored tensor, its first element at `offset`, neighbours along each axis
`strides` apart. Coordinates are the logical tensor's, offsets and strides the stored tensor's; all in elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from operator import add, mul, sub
from typing import NamedTuple

from convsvc.tensors.boxes import Box
from convsvc.tensors.declare import Part, Row
from convsvc.tensors.notation import interval
from convsvc.tensors.quick import quick


@dataclass(frozen=True, slots=True)
class LogicalTensor:
    """A logical tensor with its full name in the model and its extents."""

    name: str
    axes: tuple[str, ...]
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        extents = ", ".join(f"{axis} {size}" for axis, size in zip(self.axes, self.sizes, strict=True))
        return f"{self.name} [{extents}]"


class Block(NamedTuple):
    """A box of a logical tensor inside a stored tensor. A tuple, as there are very many: a dataclass takes three times as long to make."""

    tensor: LogicalTensor
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(sub, self.stops, self.starts))

    @property
    def box(self) -> Box:
        return Box(self.starts, self.stops)

    @property
    def volume(self) -> int:
        return prod(self.shape)


class Laid(NamedTuple):
    """A stored tensor of a layout: its shape, the blocks in it, and runs (offset, count) that hold nothing but padding.

    `idle` are runs that nothing depends on: zeros are written, and whatever is read is left out.
    """

    name: str
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    padding: tuple[tuple[int, int], ...] = ()
    also: tuple[str, ...] = ()
    optional: bool = False
    written: bool = True
    idle: tuple[tuple[int, int], ...] = ()
    linear: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What of an axis lies here: `start:stop` of an axis that is padded to `padded` elements in all."""

    start: int
    stop: int


def lay(row: Row, sizes: Mapping[str, int], windows: Mapping[str, Window], scope: str = "", prefix: str = "") -> Iterator[Laid]:
    """The stored tensors of a row.

    `sizes` gives each axis' logical extent; `windows` the part of an axis that lies here (a rank's slice), which may reach beyond
    the extent: what lies beyond is padding. `scope` goes before the logical names, `prefix` before the stored ones.

    >>> from convsvc.tensors.declare import logical, row
    >>> W = logical("w", "ffn hidden")
    >>> laid, = lay(row("w", W, "ffn hidden"), {"ffn": 8, "hidden": 4}, {"ffn": Window(4, 8)})
    >>> laid.shape, laid.blocks[0].starts, laid.blocks[0].strides
    ((4, 4), (4, 0), (4, 1))
    """
    ranges = [range(*_window(axis, sizes, windows)) for axis in row.looped]
    firsts = [each.start for each in ranges]
    if not all(ranges):
        return
    # The stored tensors of a looped row are alike: one is laid, the others are it, moved along the looped axes.
    blocks, shape, padding = _concatenate(row.parts, sizes, windows, dict(zip(row.looped, firsts, strict=True)), scope)
    if row.within is not None:
        blocks = _interleaved(blocks, row.within)
    idle: tuple[tuple[int, int], ...] = ()
    if row.hole is not None:
        blocks, idle = _hollowed(blocks, interval(row.hole[1], sizes), row.hole[0])
    if row.shape is not None:
        extent = dict(zip(blocks[0].tensor.axes, blocks[0].shape, strict=True))
        shape = tuple(prod(extent[axis] for axis in group) for group in row.shape)
    for index in product(*ranges):
        # Names count from 0 within what lies here: a rank's first expert is its expert 0.
        local = {axis: at - first for axis, at, first in zip(row.looped, index, firsts, strict=True)}
        names = [prefix + (name.format(**local) if local else name) for name in (row.stored, *row.also)]
        moved = tuple(_moved(block, local) for block in blocks) if any(local.values()) else blocks
        yield Laid(names[0], shape, moved, padding, tuple(names[1:]), row.optional, row.written, idle, row.linear)


def _hollowed(blocks: tuple[Block, ...], hole: tuple[int, int], axis: str) -> tuple[tuple[Block, ...], tuple[tuple[int, int], ...]]:
    """The blocks without what they have for these indices of an axis, and the runs where that would lie.

    What lies within the axis must be stored in one run.
    """
    (block,) = blocks
    at = block.tensor.axes.index(axis)
    first, last = (min(max(each, block.starts[at]), block.stops[at]) for each in hole)
    kept = tuple(_within(block, at, *part) for part in ((block.starts[at], first), (last, block.stops[at])) if part[0] < part[1])
    gone = _within(block, at, first, last)
    inner = prod(gone.shape[at:])
    if not inner:
        return kept, ()
    if block.strides[at] * (last - first) != inner or block.strides[-1] != 1:
        raise ValueError(f"{block.tensor.name}: what lies within {axis} is not stored in one run")
    outer = product(*map(range, gone.shape[:at]))
    return kept, tuple((gone.offset + sum(map(mul, index, gone.strides)), inner) for index in outer)


def _within(block: Block, axis: int, start: int, stop: int) -> Block:
    """The block's part between two indices of an axis."""
    starts, stops = list(block.starts), list(block.stops)
    offset = block.offset + (start - starts[axis]) * block.strides[axis]
    starts[axis], stops[axis] = start, stop
    return Block(block.tensor, tuple(starts), tuple(stops), offset, block.strides)


def renamed(laid: Laid, scope: str, prefix: str, tensors: dict[str, LogicalTensor]) -> Laid:
    """What was laid without scope and prefix, with them; `tensors` are the scope's logical tensors met so far, by their bare names.

    >>> from convsvc.tensors.declare import logical, row
    >>> laid, = lay(row("w", logical("w", "ffn hidden"), "ffn hidden"), {"ffn": 8, "hidden": 4}, {})
    >>> there = renamed(laid, "layers.3.", "model.", {})
    >>> there.name, there.blocks[0].tensor.name, there.shape
    ('model.w', 'layers.3.w', (8, 4))
    """
    blocks = tuple(
        [
            quick(Block, (_scoped(tensor, scope, tensors), starts, stops, offset, strides))
            for tensor, starts, stops, offset, strides in laid.blocks
        ]
    )
    name, shape, _, padding, also, *rest = laid
    return quick(Laid, (prefix + name, shape, blocks, padding, tuple([prefix + each for each in also]) if also else (), *rest))


def _scoped(tensor: LogicalTensor, scope: str, tensors: dict[str, LogicalTensor]) -> LogicalTensor:
    found = tensors.get(tensor.name)
    if found is None:
        found = tensors[tensor.name] = LogicalTensor(scope + tensor.name, tensor.axes, tensor.sizes)
    return found


def _moved(block: Block, by: Mapping[str, int]) -> Block:
    """The block of another index of looped axes, which no stored tensor has as an axis: only the box moves."""
    shifts = [by.get(axis, 0) for axis in block.tensor.axes]
    starts = tuple(map(add, block.starts, shifts))
    return Block(block.tensor, starts, tuple(map(add, block.stops, shifts)), block.offset, block.strides)


def _window(axis: str, sizes: Mapping[str, int], windows: Mapping[str, Window]) -> tuple[int, int]:
    window = windows.get(axis)
    return (window.start, window.stop) if window else (0, sizes[axis])


def _concatenate(
    parts: tuple[Part, ...], sizes: Mapping[str, int], windows: Mapping[str, Window], fixed: Mapping[str, int], scope: str
) -> tuple[tuple[Block, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    blocks: list[Block] = []
    padding: list[tuple[int, int]] = []
    offset, rows, rest = 0, 0, None
    for part in parts:
        block, shape, pad = _lay_part(part, sizes, windows, fixed, scope, offset)
        if rest is not None and shape[1:] != rest:
            raise ValueError(f"parts of one stored tensor have shapes {shape[1:]} and {rest} after the first axis")
        rest = shape[1:]
        blocks.append(block)
        padding += pad
        rows += shape[0] if shape else 1
        offset += prod(shape)
    return tuple(blocks), ((rows, *rest) if shape else ()) if rest is not None else (), tuple(padding)


def _interleaved(blocks: tuple[Block, ...], axis: str) -> tuple[Block, ...]:
    """Blocks that were laid one after the other, as they lie where each has its turn within every index of their outermost axis."""
    at = [block.tensor.axes.index(axis) for block in blocks]
    whole, offset, moved = sum([block.strides[each] for block, each in zip(blocks, at, strict=True)]), 0, []
    for block, each in zip(blocks, at, strict=True):
        strides = (*block.strides[:each], whole, *block.strides[each + 1 :])
        moved.append(block._replace(offset=offset, strides=strides))
        offset += block.strides[each]
    return tuple(moved)


def _lay_part(
    part: Part, sizes: Mapping[str, int], windows: Mapping[str, Window], fixed: Mapping[str, int], scope: str, offset: int
) -> tuple[Block, tuple[int, ...], list[tuple[int, int]]]:
    logical = part.logical
    tensor = LogicalTensor(scope + logical.name, logical.axes, tuple(sizes[axis] for axis in logical.axes))
    box = {axis: _bounds(axis, part, sizes, windows, fixed) for axis in logical.axes}
    shape = tuple(prod(box[axis][1] - box[axis][0] for axis in group) for group in part.order)
    strides, stride = dict.fromkeys(logical.axes, 0), 1
    for axis in reversed([axis for group in part.order for axis in group]):
        strides[axis] = stride
        stride *= box[axis][1] - box[axis][0]
    starts = tuple(box[axis][0] for axis in logical.axes)
    stops = tuple(min(box[axis][1], sizes[axis]) for axis in logical.axes)
    padding = _padding(part, box, sizes, strides, offset)
    stops = tuple(map(max, starts, stops))
    return Block(tensor, starts, stops, offset, tuple(strides[axis] for axis in logical.axes)), shape, padding


def _bounds(axis: str, part: Part, sizes: Mapping[str, int], windows: Mapping[str, Window], fixed: Mapping[str, int]) -> tuple[int, int]:
    if axis in fixed:
        return fixed[axis], fixed[axis] + 1
    for name, where in part.selection.where:
        if name == axis:
            return interval(where, sizes)
    return _window(axis, sizes, windows)


def _padding(
    part: Part, box: Mapping[str, tuple[int, int]], sizes: Mapping[str, int], strides: Mapping[str, int], offset: int
) -> list[tuple[int, int]]:
    beyond = [axis for axis in part.logical.axes if box[axis][1] > sizes[axis]]
    if not beyond:
        return []
    (axis,) = beyond
    if axis != part.order[0][0]:
        raise ValueError(f"{part.logical.name}: only the outermost axis can be padded, not {axis}")
    start, stop = box[axis]
    real = max(0, min(stop, sizes[axis]) - start)
    return [(offset + real * strides[axis], (stop - start - real) * strides[axis])]
