"""Which pipeline stage and chunk a layer lies in, and its number there. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from convsvc.errors import LayoutError
from convsvc.models.placement.grid import Parallel
from convsvc.models.placement.table import Table, table_of


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


def place_layers(num_layers: int, parallel: Parallel) -> Placement:
    """Spread `num_layers` layers (noop ones not counted) over stages and chunks.

    >>> place_layers(3, Parallel(pp=2, noop=(0,))).layers
    (LayerPlace(stage=0, chunk=None, number=1), LayerPlace(stage=1, chunk=None, number=0), LayerPlace(stage=1, chunk=None, number=1))

    Raises LayoutError, naming the numbers, for anything that does not come out even.
    """
    positions = num_layers + len(parallel.noop)
    _check_noop(parallel.noop, positions)
    table = table_of(positions, parallel)
    return _placement(table, parallel, positions)


def _placement(table: Table, parallel: Parallel, positions: int) -> Placement:
    chunks = len(table.counts) if len(table.counts) > 1 else None

    def cell(stage: int, chunk: int) -> Cell:
        return stage, None if chunks is None else chunk

    cells = list(table.cells())
    slots = [LayerPlace(*cell(stage, chunk), number) for stage, chunk, count in cells for number in range(count)]
    noop = frozenset(parallel.noop)
    layers = tuple([slot for at, slot in enumerate(slots) if at not in noop])
    first, last = cell(*cells[0][:2]), cell(*cells[-1][:2])
    return Placement(layers, first, last, cell(*table.mtp) if table.mtp else last, chunks, positions, parallel.pp)


def _check_noop(noop: tuple[int, ...], positions: int) -> None:
    twice = sorted({at for at in noop if noop.count(at) > 1})
    if twice:
        raise LayoutError(f"noop_layers names {', '.join(map(str, twice))} more than once")
    outside = [at for at in noop if not 0 <= at < positions]
    if outside:
        raise LayoutError(f"noop_layers names {', '.join(map(str, outside))}; with them included there are layers 0 to {positions - 1}")
