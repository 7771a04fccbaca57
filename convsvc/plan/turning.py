"""A stored tensor whose last two axes lie the other way round than its layout says: the same blocks with other strides. Pure."""

from __future__ import annotations

from convsvc.errors import LayoutError
from convsvc.tensors.blocks import Block, Laid


def turned(laid: Laid) -> Laid:
    """What was laid as [..., rows, columns], where [..., columns, rows] is stored. `shape` stays what everybody calls it.

    >>> from convsvc.tensors.blocks import LogicalTensor
    >>> block = Block(LogicalTensor("w", ("ffn", "hidden"), (2, 3)), (0, 0), (2, 3), 0, (3, 1))
    >>> turned(Laid("w", (2, 3), (block,))).blocks[0].strides
    (1, 2)

    Raises LayoutError where an axis runs over more than one of the stored ones.
    """
    if len(laid.shape) < 2:
        return laid
    return laid._replace(blocks=tuple([_turned(block, laid) for block in laid.blocks]), padding=())


def _turned(block: Block, laid: Laid) -> Block:
    rows, columns = laid.shape[-2:]
    strides = []
    for axis, (length, stride) in enumerate(zip(block.shape, block.strides, strict=True)):
        if length <= 1:
            strides.append(0)
        elif stride % (rows * columns) == 0:
            strides.append(stride)
        elif stride % columns == 0 and (length - 1) * stride < rows * columns:
            strides.append(stride // columns)
        elif (length - 1) * stride < columns:
            strides.append(stride * rows)
        else:
            raise LayoutError(f"{laid.name} {list(laid.shape)} is stored turned, and {block.tensor.axes[axis]} lies along two of its axes")
    matrix, within = divmod(block.offset, rows * columns)
    row, column = divmod(within, columns)
    return Block(block.tensor, block.starts, block.stops, matrix * rows * columns + column * rows + row, tuple(strides))
