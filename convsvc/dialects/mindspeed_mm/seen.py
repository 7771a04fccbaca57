"""The layout that rank files show by their names and shapes, where no word of it is saved. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.dialects.mcore.grid import Parallel, Rank
from convsvc.dialects.mcore.modules import shown
from convsvc.dialects.mcore.rows import rows_of, windows_of
from convsvc.dialects.mcore.tables import Tables
from convsvc.dialects.mindspeed_mm.checkpoint import Opened
from convsvc.dialects.mindspeed_mm.job import MindSpeedMMSource
from convsvc.dialects.mindspeed_mm.settings import EVERYWHERE, FIELDS, Counts, Grid, Settings, cut_of, filled, size_of, table_of
from convsvc.dialects.mindspeed_mm.tables import BY_FAMILY, tables_of
from convsvc.dialects.templates import Templates
from convsvc.errors import JobError, LayoutError, SourceError
from convsvc.models.model import Model
from convsvc.models.scope import DECODER, Scope
from convsvc.tensors.declare import Row

EMBEDDING = "text_decoder.embedding.word_embeddings.weight"
HEAD = "text_decoder.decoder.final_layernorm.weight"
APART = re.compile(r"\.self_attention\.q_proj\.weight$")


class Names:
    """The stored names of each (stage, chunk) on the first tensor and expert rank, and every tensor there by them."""

    def __init__(self, checkpoint: Checkpoint, grid: Grid) -> None:
        self.chunks = grid.chunks
        self.cells: dict[tuple[int, int], dict[str, Found]] = {}
        for (file, name), found in checkpoint.found.items():
            rank = rank_of(Path(file).parent.name, grid)
            if rank is None or rank.t or rank.e:
                continue
            chunk, _, stored = name.partition("/")
            self.cells.setdefault((rank.p, int(chunk.removeprefix("model") or 0)), {})[stored] = found

    def where(self, stored: str) -> list[tuple[int, int]]:
        """The (stage, chunk) that have a tensor of this name."""
        return [cell for cell, names in self.cells.items() if stored in names]

    def __iter__(self) -> Iterator[tuple[str, Found]]:
        return (item for names in self.cells.values() for item in names.items())


def settings_of(source: MindSpeedMMSource, checkpoint: Checkpoint, model: Model) -> Settings:
    """What the names and shapes show, with which all that the job states must agree. Raises JobError, SourceError, LayoutError."""
    grid = grid_of(checkpoint, source.ep_size)
    names = Names(checkpoint, grid)
    canonical = source.enable_canonical_hf_struct
    if canonical is None:
        canonical = BY_FAMILY.get(model.family.name) is not None and any(APART.search(name) for name, _ in names)
    tables = tables_of(model.family.name, canonical)
    counts = {module.name: _counts_of(names, tables.of(module.name), module.num_layers, grid) for module in model.modules}
    _check_stated(source, counts, grid)
    returns = _returns(names, grid) if source.ldt is None else source.ldt
    vocab = stored_vocab(checkpoint, grid, source) or model.sizes.get("vocab", 0)
    settings = Settings(cut_of(counts, dict.fromkeys(counts, 1), grid, vocab, returns=returns), canonical)
    tensor = {module.name: _tensor_of(source, module.name, (names, grid), (model, settings, tables)) for module in model.modules}
    modules = {name: replace(own, tp=tensor[name], etp=tensor[name]) for name, own in settings.cut.modules.items()}
    opened: Opened = checkpoint.settings
    return replace(settings, cut=replace(settings.cut, modules=modules, folder=opened.folder))


def grid_of(checkpoint: Checkpoint, stated_ep: int | None = None) -> Grid:
    """The grid that the directories' names show. Raises SourceError for ranks that are missing.

    One number behind a tensor rank's is its stage, or its expert rank: where every one of them has the word embedding and there are
    experts, it is that.
    """
    # Of files, not of tensors: a rank in whose stage no module has a layer holds none.
    parents = {Path(file.name).parent.name for file in checkpoint.files}
    folders = sorted(name for name in parents if name.startswith("mp_rank_"))
    numbers = [tuple(map(int, name.removeprefix("mp_rank_").split("_"))) for name in folders]
    if len({len(each) for each in numbers}) != 1:
        raise SourceError(f"the rank directories of {checkpoint.path} have names of different kinds: {', '.join(folders[:6])}")
    sizes = tuple(max(column) + 1 for column in zip(*numbers, strict=True))
    opened: Opened = checkpoint.settings
    if len(sizes) == 2 and _is_expert(checkpoint, folders, stated_ep):
        sizes = (sizes[0], 1, sizes[1])
    tp, pp, ep = (*sizes, 1, 1)[:3]
    wanted = prod(sizes)
    if len(folders) != wanted:
        raise SourceError(
            f"{checkpoint.path} has {len(folders)} rank directories, up to {folders[-1]}: {wanted} are expected", do="fetch the others"
        )
    return Grid(tp, pp, ep, max(opened.chunks, 1))


def _is_expert(checkpoint: Checkpoint, folders: list[str], stated: int | None) -> bool:
    if stated is not None and stated > 1:
        return True
    having = {Path(file).parent.name for file, name in checkpoint.found if name.endswith(f"/{EMBEDDING}")}
    has_experts = any(".experts." in name for _, name in checkpoint.found)
    return stated is None and has_experts and len(having) == len(folders) > 1


def rank_of(folder: str, grid: Grid) -> Rank | None:
    """A rank directory's rank; None for another directory."""
    if not folder.startswith("mp_rank_"):
        return None
    t, *rest = map(int, folder.removeprefix("mp_rank_").split("_"))
    if len(rest) == 2:
        return Rank(t, rest[0], rest[1])
    return Rank(t, *((0, rest[0]) if grid.ep > 1 else (rest[0], 0))) if rest else Rank(t, 0, 0)


def _counts_of(names: Names, tables: Tables, layers: int, grid: Grid) -> Counts:
    """A module's layers in each cell; a table that is repeated over the grid, once."""
    pattern = re.compile(re.escape(tables.prefix + tables.stack) + r"(\d+)\.")
    found = [[0] * grid.pp for _ in range(names.chunks)]
    for (stage, chunk), held in names.cells.items():
        numbers = [int(match[1]) for name in held if (match := pattern.match(name))]
        found[chunk][stage] = max(numbers, default=-1) + 1
    whole = tuple(map(tuple, found))
    if not layers and not tables.stack:
        return EVERYWHERE
    return next((table for table in smaller(whole) if sum(map(sum, table)) == layers), whole)


def smaller(whole: Counts) -> Iterator[Counts]:
    """The table, and then the smaller ones that it is a repetition of."""
    yield whole
    for rows in range(1, len(whole) + 1):
        for columns in range(1, len(whole[0]) + 1):
            part = tuple(row[:columns] for row in whole[:rows])
            again = tuple(tuple(part[r % rows][c % columns] for c in range(len(whole[0]))) for r in range(len(whole)))
            if again == whole:
                yield part


def _check_stated(source: MindSpeedMMSource, counts: Mapping[str, Counts], grid: Grid) -> None:
    """Raises JobError where a stated pipeline is not that of the rank files."""
    faults = []
    for module, (field, _) in FIELDS.items():
        table = table_of(getattr(source, field), field)
        if table is None or module not in counts:
            continue
        if _spread(table, grid, module) != _spread(counts[module], grid, module):
            faults.append(f"source.{field}: stated {shown(table)}, the rank files have {shown(counts[module])}")
    if faults:
        raise JobError("the job contradicts the rank files", facts=faults, do="leave these out: they are seen from the names")


def _spread(table: Counts, grid: Grid, module: str) -> Counts:
    """The table over the whole grid: repeated, or for the decoder with empty stages behind it."""
    rows, columns = max(grid.chunks, len(table)), max(grid.pp, len(table[0]))
    if module == DECODER:
        return filled(table, columns, rows)
    return tuple(tuple(table[r % len(table)][c % len(table[0])] for c in range(columns)) for r in range(rows))


def _returns(names: Names, grid: Grid) -> bool:
    """Whether the final norm lies in the first stage's last chunk though layers lie in others."""
    where = names.where(HEAD)
    if where != [(0, names.chunks - 1)] or grid.pp == 1:
        return False
    layers = [cell for cell, held in names.cells.items() if any(name.startswith("text_decoder.decoder.layers.") for name in held)]
    return max(layers, key=lambda cell: (cell[1], cell[0]), default=(0, 0)) != where[0]


def stored_vocab(checkpoint: Checkpoint, grid: Grid, source: MindSpeedMMSource) -> int | None:
    """Rows of the word embedding over its tensor ranks: those that the configuration says, if some number of ranks makes them."""
    said = checkpoint.facts.get("vocab_size")
    ranks = {rank.t: found.tensor.shape[0] for rank, found in _embeddings(checkpoint, grid)}
    if not ranks:
        return None
    sums = {size: sum(ranks.get(t, 0) for t in range(size)) for size in range(1, grid.tp + 1) if grid.tp % size == 0}
    if source.tp_size is not None:
        return sums.get(source.tp_size, sums[grid.tp])
    return int(said) if said in sums.values() else sums[grid.tp]


def _embeddings(checkpoint: Checkpoint, grid: Grid) -> Iterator[tuple[Rank, Found]]:
    for (file, name), found in checkpoint.found.items():
        rank = rank_of(Path(file).parent.name, grid)
        if rank is not None and name.endswith(f"/{EMBEDDING}") and found.tensor.shape:
            yield rank, found


def _tensor_of(source: MindSpeedMMSource, module: str, seen: tuple[Names, Grid], of: tuple[Model, Settings, Tables]) -> int:
    """Over how many ranks a module is cut, by the shape of a tensor that is cut; what is stated must agree."""
    stated = _stated_size(source, module)
    (names, grid), (model, settings, tables) = seen, of
    fitting = _sizes_that_fit(module, names, (model, settings, tables), grid.tp)
    if fitting is None:
        return stated if stated and grid.tp % stated == 0 else 1
    if not fitting or (stated is not None and stated not in fitting):
        shapes = f"its shapes fit {', '.join(map(str, fitting)) or 'none'} of the {grid.tp} tensor ranks"
        raise JobError(f"{_said_in(source, module)}: stated {stated}; {shapes}")
    return stated if stated is not None else max(fitting)


def _said_in(source: MindSpeedMMSource, module: str) -> str:
    """The field that a module's size is stated in: its own, or the decoder's, which stands for it."""
    if module not in FIELDS:
        return module
    own = FIELDS[module][1]
    return own if module == DECODER or getattr(source, own) or source.tp_size is None else f"tp_size, as that of the {module}"


def _stated_size(source: MindSpeedMMSource, module: str) -> int | None:
    if module not in FIELDS:
        return None
    own = getattr(source, FIELDS[module][1])
    return size_of(source, module) if own or source.tp_size is not None else None


def _sizes_that_fit(module: str, names: Names, of: tuple[Model, Settings, Tables], ranks: int) -> list[int] | None:
    """The numbers of tensor ranks for which the first rank's tensor has the shape that it has; None where nothing is cut."""
    model, settings, tables = of
    stored = dict(names)
    own = tables.of(module)
    for scope in (each for each in model.scopes if each.module == module and each.kind in ("layer", "embedding")):
        prefix = own.prefix + (f"{own.stack}0." if scope.kind == "layer" else "")
        for row in rows_of(scope, model, settings.cut, tables):
            name = prefix + row.stored
            if row.tp and not row.looped and name in stored:
                shapes = {size: _shape_of(row, scope, settings, size) for size in range(1, ranks + 1) if ranks % size == 0}
                return [size for size, shape in shapes.items() if shape == stored[name].tensor.shape]
        if scope.kind == "layer":
            break
    return None


def _shape_of(row: Row, scope: Scope, settings: Settings, size: int) -> tuple[int, ...] | None:
    """The shape of the first of so many ranks' part of a row; None where it cannot be cut so."""
    cut = replace(settings.cut, modules={**settings.cut.modules, scope.module: Parallel(tp=size)})
    try:
        windows = windows_of(row, scope, cut, Rank(0, 0, 0))
        templates = Templates()
        kinds = templates.lay(templates.of(scope, (row,), "")[0], windows, frozenset(windows.items()))
    except LayoutError:
        return None
    return templates.kinds[kinds[0]].shape
