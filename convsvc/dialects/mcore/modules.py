"""Where each module's layers lie, over the same stages and chunks. Pure."""

from __future__ import annotations

from dataclasses import replace

from convsvc.dialects.mcore.grid import Parallel, check_sizes
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.settings import Settings
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.placement import Cell, LayerPlace, Placement, Table, place
from convsvc.models.scope import Module

Placements = dict[str, tuple[Placement, ...]]


def place_modules(model: Model, settings: Settings) -> Placements:
    """Each module's placement, and those of its copies where it lies there more than once.

    Raises LayoutError for modules that do not fit into one grid.
    """
    check_sizes(settings.parallel, model.num_experts)
    grid, placements = settings.parallel, Placements()
    for module in model.modules:
        own = settings.of(module.name)
        if own.pp != grid.pp or grid.tp % own.tp or grid.ep % own.ep:
            raise LayoutError(
                f"{module.name} is cut with tp {own.tp}, pp {own.pp}, ep {own.ep}, in a grid of tp {grid.tp}, pp {grid.pp}, ep {grid.ep}",
                do="give every module as many stages, and tensor and expert parts that divide the grid's",
            )
        if own.counts is None:
            placements[module.name] = (place_layers(module.num_layers, own, beside_layers=module.name in settings.modules),)
        else:
            placements[module.name] = _placed(module, own, own.counts, grid)
    chunks = {name: placement[0].chunks for name, placement in placements.items()}
    if len(set(chunks.values())) > 1:
        raise LayoutError("modules have different numbers of chunks", facts=[f"{name}: {count or 1}" for name, count in chunks.items()])
    return placements


def _placed(module: Module, own: Parallel, counts: tuple[tuple[int, ...], ...], grid: Parallel) -> tuple[Placement, ...]:
    """The module as its table places it, and again where the table ends before the grid does."""
    total = sum(map(sum, counts))
    if total != module.num_layers:
        raise LayoutError(
            f"the pipeline of {module.name}, {shown(counts)}, has {total} layers; the model has {module.num_layers}",
            do=f"give {module.num_layers} in all",
            details={"module": module.name, "stated": total, "layers": module.num_layers},
        )
    first = place(Table(counts), beside_layers=True)
    if own.returns:
        first = replace(first, last=(0, first.last[1] if first.chunks is None else len(counts) - 1))
    chunks = grid.virtual_stages or 1
    starts = [(stage, chunk) for chunk in range(0, chunks, len(counts)) for stage in range(0, grid.pp, len(counts[0]))]
    return tuple(_moved(first, stage, chunk, (grid.pp, chunks)) for stage, chunk in starts)


def _moved(placement: Placement, stage: int, chunk: int, grid: tuple[int, int]) -> Placement:
    """The placement so many stages and chunks later; what would lie beyond the grid lies nowhere (in stage -1)."""
    stages, chunks = grid

    def cell(at: Cell) -> Cell:
        there = at[0] + stage, (at[1] or 0) + chunk
        return (there[0] if there[0] < stages and there[1] < chunks else -1), (there[1] if chunks > 1 else None)

    layers = tuple(LayerPlace(*cell((each.stage, each.chunk)), each.number) for each in placement.layers)
    return Placement(
        layers,
        cell(placement.first),
        cell(placement.last),
        cell(placement.mtp),
        chunks if chunks > 1 else None,
        placement.positions,
        stages,
    )


def shown(counts: tuple[tuple[int, ...], ...]) -> str:
    """A table as a job writes it.

    >>> shown(((1, 2), (0, 3)))
    '[[1,2],[0,3]]'
    """
    rows = ["[" + ",".join(map(str, row)) + "]" for row in counts]
    return rows[0] if len(rows) == 1 else "[" + ",".join(rows) + "]"
