"""Where a stack's layers lie: one table of counts, [chunk][stage], that every way of cutting a pipeline writes. Pure.

Layers are counted with noop layers included where a *position* is meant, without them where a *layer* is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convsvc.errors import LayoutError


@dataclass(frozen=True, slots=True)
class Table:
    """`counts[chunk][stage]` layers, noop ones included.

    Layers are numbered chunk by chunk, in each from the first stage to the last; where it `returns` (dualpipev), in every second chunk
    from the last to the first. `mtp` is the (stage, chunk) of the MTP layers where that is stated.
    """

    counts: tuple[tuple[int, ...], ...]
    returns: bool = False
    mtp: tuple[int, int] | None = None

    def cells(self) -> Iterator[tuple[int, int, int]]:
        """(stage, chunk, layers) in the order of the layers.

        >>> list(Table(((1, 2), (3, 4)), returns=True).cells())
        [(0, 0, 1), (1, 0, 2), (1, 1, 4), (0, 1, 3)]
        """
        for chunk, counts in enumerate(self.counts):
            order = range(len(counts))
            for stage in reversed(order) if self.returns and chunk % 2 else order:
                yield stage, chunk, counts[stage]


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Where a layer lies: pipeline stage, model chunk (None without virtual stages), number within the chunk."""

    stage: int
    chunk: int | None
    number: int


Cell = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Placement:
    """Every layer's slot, and the stage and chunk of the embedding (`first`), the output (`last`) and the MTP layers.

    `positions` counts noop layers; `chunks` is None where a stage is one chunk.
    """

    layers: tuple[LayerPlace, ...]
    first: Cell
    last: Cell
    mtp: Cell
    chunks: int | None
    positions: int
    stages: int


def place(table: Table, noop: tuple[int, ...] = (), *, beside_layers: bool = False) -> Placement:
    """The layers of a table but for those at the positions `noop`, in which nothing lies.

    What comes before and after the layers lies in the first and the last stage; with `beside_layers`, where the first and the last layer
    lie: a stack that is one of several may begin in any stage.

    >>> place(Table(((2, 2),)), noop=(0,)).layers
    (LayerPlace(stage=0, chunk=None, number=1), LayerPlace(stage=1, chunk=None, number=0), LayerPlace(stage=1, chunk=None, number=1))
    """
    chunks = len(table.counts) if len(table.counts) > 1 else None

    def cell(stage: int, chunk: int) -> Cell:
        return stage, None if chunks is None else chunk

    cells = list(table.cells())
    slots = [LayerPlace(*cell(stage, chunk), number) for stage, chunk, count in cells for number in range(count)]
    empty = frozenset(noop)
    layers = tuple([slot for at, slot in enumerate(slots) if at not in empty])
    filled = [each for each in cells if each[2]] if beside_layers else cells
    first, last = (cell(*each[:2]) for each in ((filled or cells)[0], (filled or cells)[-1]))
    return Placement(layers, first, last, cell(*table.mtp) if table.mtp else last, chunks, len(slots), len(table.counts[0]))


def check_noop(noop: tuple[int, ...], positions: int) -> None:
    """Raises LayoutError, naming them, for positions that are there twice or not at all."""
    twice = sorted({at for at in noop if noop.count(at) > 1})
    if twice:
        raise LayoutError(f"noop_layers names {', '.join(map(str, twice))} more than once")
    outside = [at for at in noop if not 0 <= at < positions]
    if outside:
        raise LayoutError(f"noop_layers names {', '.join(map(str, outside))}; with them included there are layers 0 to {positions - 1}")
