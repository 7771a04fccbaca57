"""Runs: a stored tensor cut anywhere, as the few boxes of logical axes that the cut is. Pure.

Optimizer shards, FSDP's flat parameters, chunks of DCP and torch_dist cut what is stored, not what it means: a cut may fall in the middle
of a group of heads whose axes are merged in one stored dimension. What lies between two cuts of merged axes is at most a head, a body and
a tail a level. Positions are a stored tensor's elements, row-major; boxes are in axes' coordinates.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import NamedTuple

from convsvc.tensors.blocks import Block, Laid
from convsvc.tensors.boxes import Box


def run_boxes(sizes: tuple[int, ...], start: int, stop: int) -> tuple[Box, ...]:
    """The boxes of axes of these sizes, row-major, which hold their elements `start:stop`: in order, disjoint, at most 2 x axes - 1.

    >>> tuple(map(tuple, run_boxes((4, 3), 2, 10)))
    (((0, 2), (1, 3)), ((1, 0), (3, 3)), ((3, 0), (4, 1)))
    >>> run_boxes((4, 3), 3, 6), run_boxes((), 0, 1)
    ((Box(starts=(1, 0), stops=(2, 3)),), (Box(starts=(), stops=()),))

    Raises ValueError if the run reaches beyond the elements.
    """
    if not 0 <= start <= stop <= prod(sizes):
        raise ValueError(f"elements {start}:{stop} are not within the {prod(sizes)} of {sizes}")
    return tuple(_boxes(sizes, start, stop)) if start < stop else ()


def _boxes(sizes: tuple[int, ...], start: int, stop: int) -> list[Box]:
    if not sizes:
        return [Box((), ())]
    rest = sizes[1:]
    inner = prod(rest)
    first, head = divmod(start, inner)
    last, tail = divmod(stop, inner)
    if first == last:
        return _within(first, _boxes(rest, head, tail))
    boxes = []
    if head:
        boxes += _within(first, _boxes(rest, head, inner))
        first += 1
    if first < last:
        boxes.append(Box((first, *(0,) * len(rest)), (last, *rest)))
    if tail:
        boxes += _within(last, _boxes(rest, 0, tail))
    return boxes


def _within(index: int, boxes: list[Box]) -> list[Box]:
    return [Box((index, *starts), (index + 1, *stops)) for starts, stops in boxes]


def cut_laid(laid: Laid, starts: tuple[int, ...], stops: tuple[int, ...]) -> Laid:
    """The box `starts:stops` of a stored tensor as a stored tensor of its own: what of each block is in it, at its new places.

    The box is in the stored tensor's own dimensions. A block that is cut across merged axes becomes several; one that is not in the box is
    left out, so a cut which holds nothing but padding has no block. Names and the rest stay.

    >>> from convsvc.tensors.blocks import lay
    >>> from convsvc.tensors.declare import logical, row
    >>> laid, = lay(row("w", logical("w", "head head_dim"), "(head head_dim)"), {"head": 3, "head_dim": 4}, {})
    >>> cut = cut_laid(laid, (2,), (8,))
    >>> cut.shape, [(each.starts, each.stops, each.offset) for each in cut.blocks]
    ((6,), [((0, 2), (1, 4), 0), ((1, 0), (2, 4), 2)])

    Raises ValueError if the box is not within the tensor, or a block's axis runs on from one stored dimension into the next.
    """
    shape = laid.shape
    if starts == (0,) * len(shape) and stops == shape:
        return laid
    if not len(starts) == len(stops) == len(shape) or any(not 0 <= a <= b <= size for a, b, size in zip(starts, stops, shape, strict=True)):
        raise ValueError(f"{laid.name}: the box {starts}:{stops} is not within {shape}")
    new_shape = tuple([stop - start for start, stop in zip(starts, stops, strict=True)])
    if not prod(new_shape):
        return laid._replace(shape=new_shape, blocks=(), padding=())
    if laid.idle:
        raise ValueError(f"{laid.name}: it has runs that nothing depends on, which are not cut")
    cut = _Cut(shape, starts, stops, _row_major(shape), _row_major(new_shape))
    blocks = tuple([piece for block in laid.blocks if block.volume for piece in _cut_block(block, cut, laid.name)])
    padding = [run for offset, count in laid.padding for run in _cut_run_of(offset, count, cut)]
    return laid._replace(shape=new_shape, blocks=blocks, padding=_joined(padding))


def cut_run(laid: Laid, start: int, stop: int) -> Laid:
    """The elements `start:stop` of a stored tensor, row-major, as a stored tensor of one dimension: FSDP's flat parameters are such.

    >>> from convsvc.tensors.blocks import lay
    >>> from convsvc.tensors.declare import logical, row
    >>> laid, = lay(row("w", logical("w", "ffn hidden"), "ffn hidden"), {"ffn": 3, "hidden": 4}, {})
    >>> cut = cut_run(laid, 4, 10)
    >>> cut.shape, [(each.starts, each.stops, each.offset) for each in cut.blocks]
    ((6,), [((1, 0), (2, 4), 0), ((2, 0), (3, 2), 4)])

    Raises ValueError if the run reaches beyond the tensor.
    """
    return cut_laid(laid._replace(shape=(prod(laid.shape),)), (start,), (stop,))


class _Cut(NamedTuple):
    """A box of a stored tensor: `steps` and `new_steps` are a dimension's row-major strides before and after."""

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]
    new_steps: tuple[int, ...]


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


class _Axis(NamedTuple):
    """An axis of a block within a stored dimension: neighbours are `jump` places apart."""

    jump: int
    number: int
    extent: int


def _cut_block(block: Block, cut: _Cut, name: str) -> list[Block]:
    """The pieces of a block that lie in the box: in each stored dimension a few boxes of the axes merged there, and every mix of them."""
    merged, strides = _axes_by_dimension(block, cut, name)
    rest, base, chosen = block.offset, 0, []
    for axes, size, start, stop, step, new_step in zip(merged, *cut, strict=True):
        place, rest = divmod(rest, step)
        if place + _span(axes) > size:
            raise _runs_on(block, cut, name)
        base += (place - start) * new_step
        chosen.append(_boxes_between(axes, start - place, stop - place))
    if not all(chosen):
        return []
    order = [axis.number for axes in merged for axis in axes]
    return [_piece(block, order, boxes, base, strides) for boxes in product(*chosen)]


def _axes_by_dimension(block: Block, cut: _Cut, name: str) -> tuple[list[list[_Axis]], list[int]]:
    """Which axes are merged in each stored dimension, outermost first; and the strides that all axes have in the cut.

    Axes of one element are in none, as they move nothing; they keep a stride, for it says nothing.
    """
    merged: list[list[_Axis]] = [[] for _ in cut.steps]
    strides = list(block.strides)
    for number, (start, stop, stride) in enumerate(zip(block.starts, block.stops, block.strides, strict=True)):
        at = 0
        for step in cut.steps:
            if step <= stride:
                break
            at += 1
        extent = stop - start
        if at == len(cut.steps) or stride % step:
            if extent == 1:
                continue
            raise _runs_on(block, cut, name)
        jump = stride // step
        strides[number] = jump * cut.new_steps[at]
        if extent != 1:
            merged[at].append(_Axis(jump, number, extent))
    for axes in merged:
        if len(axes) > 1:
            axes.sort(reverse=True)
            if not _nested(axes):
                raise _runs_on(block, cut, name)
    return merged, strides


def _nested(axes: list[_Axis]) -> bool:
    """Whether one step along an axis is beyond all that the axes within it reach, so that places ascend as the axes run."""
    return all(axis.jump >= _span(axes[within:]) for within, axis in enumerate(axes[:-1], 1))


def _span(axes: list[_Axis]) -> int:
    """From the first place that these axes take to behind the last."""
    span = 1
    for jump, _, extent in axes:
        span += (extent - 1) * jump
    return span


def _boxes_between(axes: list[_Axis], low: int, high: int) -> list[Box]:
    """The boxes of nested axes whose places are within `low:high`, counted from the axes' first place."""
    if len(axes) == 1:  # by far the most
        jump, _, extent = axes[0]
        first, last = max(0, -(-low // jump)), min(extent, -(-high // jump))
        return [Box((first,), (last,))] if first < last else []
    extents = tuple([axis.extent for axis in axes])
    first, last = _before(axes, low), _before(axes, high)
    return _boxes(extents, first, last) if first < last else []


def _before(axes: list[_Axis], place: int) -> int:
    """How many elements of nested axes lie before a place, counted from the axes' first place."""
    count, inner, span = 0, prod([axis.extent for axis in axes]), _span(axes)
    for jump, _, extent in axes:
        inner //= extent
        span -= (extent - 1) * jump
        whole = min(extent, max(0, (place - span) // jump + 1))
        count += whole * inner
        place -= whole * jump
        if whole == extent or place <= 0:
            return count
    return count + (place > 0)


def _piece(block: Block, order: list[int], boxes: tuple[Box, ...], base: int, strides: list[int]) -> Block:
    starts, stops, offset, at = list(block.starts), list(block.stops), base, 0
    for lows, highs in boxes:
        for low, high in zip(lows, highs, strict=True):
            axis = order[at]
            at += 1
            stops[axis] = starts[axis] + high
            starts[axis] += low
            offset += low * strides[axis]
    return Block(block.tensor, tuple(starts), tuple(stops), offset, tuple(strides))


def _runs_on(block: Block, cut: _Cut, name: str) -> ValueError:
    return ValueError(f"{name}: a block of {block.tensor}, strides {block.strides}, does not lie along the dimensions of {cut.shape}")


def _cut_run_of(offset: int, count: int, cut: _Cut) -> list[tuple[int, int]]:
    """What of a run (offset, count) lies in the box, as runs of what is cut out."""
    runs = []
    for low, high in run_boxes(cut.shape, offset, offset + count):
        first = tuple(map(max, low, cut.starts))
        last = tuple(map(min, high, cut.stops))
        if all(a < b for a, b in zip(first, last, strict=True)):
            rows = product(*[range(a - start, b - start) for a, b, start in zip(first[:-1], last[:-1], cut.starts, strict=False)])
            width = last[-1] - first[-1] if first else 1
            column = first[-1] - cut.starts[-1] if first else 0
            runs += [(column + sum(i * step for i, step in zip(row, cut.new_steps, strict=False)), width) for row in rows]
    return runs


def _joined(runs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Neighbouring runs made one.

    >>> _joined([(0, 4), (4, 4), (9, 1)])
    ((0, 8), (9, 1))
    """
    joined: list[tuple[int, int]] = []
    for offset, count in runs:
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + count)
        else:
            joined.append((offset, count))
    return tuple(joined)
