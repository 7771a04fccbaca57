"""Chunks of a stored tensor that overlap: laid in the cells between all their borders, so that what two hold is the same box twice. Pure.

torch.distributed.checkpoint loads such a tensor and takes what it reads last. Here a box that is there twice is read once, and the other
is compared with it, as all that a source holds again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product

from convsvc.tensors.blocks import Block, Laid
from convsvc.tensors.boxes import Box

# Of each dimension, where chunks begin and where they end.
Seams = tuple[tuple[int, ...], ...]
# A tensor whose chunks lie so that there are more cells was saved by nobody.
MOST_CELLS = 4096


def find_seams(boxes: Sequence[Box]) -> Seams:
    """All borders of boxes, of which there is one at least.

    >>> find_seams([Box((0, 0), (3, 4)), Box((2, 0), (6, 4))])
    ((0, 2, 3, 6), (0, 4))
    """
    corners = [corner for box in boxes for corner in box]
    return tuple(tuple(sorted(set(places))) for places in zip(*corners, strict=True))


def cells(box: Box, seams: Seams) -> Iterator[Box]:
    """A box in the cells that seams cut it into.

    >>> [tuple(cell) for cell in cells(Box((0, 0), (3, 4)), ((0, 2, 3, 6), (0, 4)))]
    [((0, 0), (2, 4)), ((2, 0), (3, 4))]
    """
    sides = [list(pairwise([place for place in places if start <= place <= stop])) for places, start, stop in zip(seams, *box, strict=True)]
    for runs in product(*sides):
        starts, stops = zip(*runs, strict=True)
        yield Box(starts, stops)


def count_cells(boxes: Iterable[Box], seams: Seams) -> int:
    """How many cells boxes have together; no more than just beyond what there may be."""
    count = 0
    for box in boxes:
        size = 1
        for places, start, stop in zip(seams, *box, strict=True):
            size *= sum(start <= place < stop for place in places)
        count += size
        if count > MOST_CELLS:
            break
    return count


def in_cells(laid: Laid, parts: Iterable[Laid]) -> Laid:
    """A chunk whose blocks are cut as those of its `parts` are, which are its cells as stored tensors of their own."""
    blocks = tuple([_part(laid, piece) for part in parts for piece in part.blocks if piece.volume])
    return laid._replace(blocks=blocks) if blocks else laid


def _part(laid: Laid, piece: Block) -> Block:
    """A piece of one of the chunk's blocks, where it lies in the chunk."""
    whole = next(block for block in laid.blocks if block.tensor.name == piece.tensor.name and block.box.intersect(piece.box) == piece.box)
    steps = zip(piece.starts, whole.starts, whole.strides, strict=True)
    return piece._replace(offset=whole.offset + sum((at - first) * stride for at, first, stride in steps), strides=whole.strides)
