"""Which stored tensor lies in which rank file: a framework's tables over the rank grid of `grid.py`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from convsvc.blocks.mtp import MTP_EMBEDDING
from convsvc.dialects.layout import Entry, Layout
from convsvc.dialects.mcore.carried import carried_file, lay_carried
from convsvc.dialects.mcore.grid import Parallel, Rank, ranks
from convsvc.dialects.mcore.modules import Placements, place_modules
from convsvc.dialects.mcore.rows import rows_of, windows_of
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.tables import Tables
from convsvc.dialects.templates import Templates, Windows
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.placement import LayerPlace, Placement
from convsvc.models.scope import Module, Scope
from convsvc.tensors.blocks import Window
from convsvc.tensors.declare import Row

FILE = "model_optim_rng.pt"


def layout(model: Model, settings: Settings, tables: Tables) -> Layout:
    """Every stored tensor of every rank, and what is carried beside them."""
    placements = place_modules(model, settings)
    _check_mtp(model, settings.parallel)
    templates = Templates()
    stages = [_Stage(model, settings, tables, placements, stage, templates) for stage in range(settings.parallel.pp)]
    entries: list[Entry] = []
    for rank in ranks(settings.parallel, settings.every_pair):
        entries += stages[rank.p].entries(rank)
    file, placed = carried_file(settings.folder), frozenset(name for stage in stages for name in stage.mtp_tensors())
    for laid, unit in lay_carried(model, placed):
        entries += [Entry(file, kind, unit) for kind in templates.add([laid])]
    return Layout(tuple(templates.kinds), tuple(entries))


def _check_mtp(model: Model, parallel: Parallel) -> None:
    if parallel.pattern is not None and (stated := sum(stage.count("m") for stage in parallel.pattern)) != model.num_mtp:
        raise LayoutError(f"pipeline_model_parallel_layout has {stated} MTP layers, {model.num_mtp} are converted")


def rank_folder(rank: Rank, parallel: Parallel) -> str:
    """A rank's directory: mp_rank_TT, with _PPP where there are stages, with _EEE where experts are spread.

    >>> rank_folder(Rank(1, 2, 3), Parallel(tp=2, pp=4, ep=8))
    'mp_rank_01_002_003'
    """
    stage = f"_{rank.p:03d}" if parallel.pp > 1 else ""
    expert = f"_{rank.e:03d}" if parallel.ep > 1 else ""
    return f"mp_rank_{rank.t:02d}{stage}{expert}"


def rank_file(rank: Rank, settings: Settings) -> str:
    """The rank's file, relative to the checkpoint."""
    path = f"{rank_folder(rank, settings.parallel)}/{FILE}"
    return f"{settings.folder}/{path}" if settings.folder else path


def chunk_name(chunk: int | None) -> str:
    """The key of a model chunk at the top of a rank file."""
    return "model" if chunk is None else f"model{chunk}"


_Cut = tuple[str | tuple[str, int] | None, ...]


class _Stage:
    """The rows of a pipeline stage, and what they are for the windows met so far.

    Ranks that hold the same windows of a row (all expert ranks of an attention's, say) have equal tensors: they are laid once.
    """

    def __init__(self, model: Model, settings: Settings, tables: Tables, placements: Placements, stage: int, templates: Templates) -> None:
        self._settings = settings
        self._templates = templates
        self._rows = [
            template
            for scope, chunk, prefix in _scopes_of(model, placements, stage, tables)
            for template in templates.of(scope, rows_of(scope, model, settings, tables), f"{chunk_name(chunk)}/{prefix}")
        ]
        # Rows that are cut along the same axes have the same windows on a rank: the first stands for them all.
        cuts = [_cut_axes(each.row, each.scope) for each in self._rows]
        firsts = list(dict.fromkeys(cuts))
        self._cuts = [self._rows[cuts.index(cut)] for cut in firsts]
        self._cut_of = [firsts.index(cut) for cut in cuts]
        self._units = [each.unit for each in self._rows]
        self._kinds: dict[tuple[int, Windows], dict[int, range]] = {}

    def entries(self, rank: Rank) -> list[Entry]:
        """What lies in the file of a rank of this stage."""
        file = rank_file(rank, self._settings)
        kinds = [self._kinds_of(cut, windows_of(each.row, each.scope, self._settings, rank)) for cut, each in enumerate(self._cuts)]
        rows = zip(self._cut_of, self._units, strict=True)
        return [Entry(file, kind, unit) for number, (cut, unit) in enumerate(rows) for kind in kinds[cut][number]]

    def _kinds_of(self, cut: int, windows: dict[str, Window]) -> dict[int, range]:
        """The kinds that each of the rows of one cut is in these windows, by the row's number."""
        key = frozenset(windows.items())
        found = self._kinds.get((cut, key))
        if found is None:
            rows = [number for number, its in enumerate(self._cut_of) if its == cut]
            found = self._kinds[cut, key] = {number: self._templates.lay(self._rows[number], windows, key) for number in rows}
        return found

    def mtp_tensors(self) -> Iterator[str]:
        """The full names of the MTP layers' logical tensors here."""
        return (each.scope.logical + logical.name for each in self._rows if each.unit.startswith("mtp.") for logical in each.row.logicals)


def _cut_axes(each: Row, scope: Scope) -> _Cut:
    """The axes that tp, ep and etp slice in a module's row, with their sizes: rows with the same have the same windows on a rank."""
    return scope.module, *((axis, scope.sizes.get(axis, 0)) if axis else None for axis in (each.tp, each.ep, each.etp))


def _scopes_of(model: Model, placements: Placements, stage: int, tables: Tables) -> Iterator[tuple[Scope, int | None, str]]:
    """What lies in a stage: each scope with its chunk and the prefix of its names there."""
    for scope in model.scopes:
        names = tables.of(scope.module)
        for placement in placements[scope.module]:
            where = _place_of(scope, placement)
            if where is not None and where.stage == stage:
                yield scope, where.chunk, prefix_of(scope, where.number, names)
    for module in model.modules:
        placement = placements[module.name][0]
        if module.num_mtp and placement.stages > 1 and placement.mtp[0] == stage:
            yield _last_embedding(module), placement.mtp[1], tables.of(module.name).prefix


def _place_of(scope: Scope, placement: Placement) -> LayerPlace | None:
    """Where a scope lies in its module's placement."""
    if scope.kind in ("layer", "part"):
        return placement.layers[scope.number]
    ends = {"embedding": placement.first, "output": placement.last, "head": placement.last}
    ends |= {"mtp": placement.mtp, "mtp_block": placement.mtp}
    return LayerPlace(*ends[scope.kind], 0) if scope.kind in ends else None


def prefix_of(scope: Scope, number: int, tables: Tables) -> str:
    """What goes before the names of a scope's rows; `number` counts a layer within its chunk, `tables` are its module's."""
    if scope.kind in ("layer", "part"):
        return f"{tables.prefix}{tables.stack}{number}."
    if scope.kind == "head":
        return ""
    return tables.prefix + (scope.logical if scope.kind == "mtp_block" else "")


def _last_embedding(module: Module) -> Scope:
    """The embedding that the last stage needs for its MTP layers: their own where they have one, else the model's."""
    own = next(scope for scope in module.scopes if scope.kind == "mtp")
    source = own if MTP_EMBEDDING.name in own.logicals else module.scopes[0]
    return replace(source, kind="last_embedding")
