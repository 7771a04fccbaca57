"""How a checkpoint of MindSpeed-MM is laid out, and what a job's target asks of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.modules import shown
from convsvc.dialects.mcore.settings import Settings as Cut
from convsvc.dialects.mindspeed_mm.job import MindSpeedMMLayout, MindSpeedMMTarget
from convsvc.dialects.mindspeed_mm.tables import check_cut, is_cut, tables_of
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.scope import DECODER, Module

FOLDER = "release"
Counts = tuple[tuple[int, ...], ...]
# A module's fields in a job, by its name: the layers of each stage, its own tensor parallel size.
FIELDS: Mapping[str, tuple[str, str]] = {
    DECODER: ("llm_pp_layers", "tp_size"),
    "image_encoder": ("vit_pp_layers", "vit_tp_size"),
    "audio_encoder": ("audio_pp_layers", "audio_tp_size"),
}
# A module without layers that nobody places lies in every stage.
EVERYWHERE: Counts = ((0,),)


@dataclass(frozen=True, slots=True)
class Settings:
    """How it is cut, and whether names are Hugging Face's parts (`canonical`)."""

    cut: Cut
    canonical: bool = False

    def described(self) -> dict[str, object]:
        """In JSON, for people."""
        cut = self.cut
        said: dict[str, object] = {"tp": cut.parallel.tp, "pp": cut.parallel.pp, "ep": cut.parallel.ep}
        for module, own in cut.modules.items():
            said[module] = {"tp": own.tp, "layers": shown(own.counts or ())}
        return said | ({"enable_canonical_hf_struct": True} if self.canonical else {})


@dataclass(frozen=True, slots=True)
class Grid:
    """How many tensor ranks, stages and expert ranks there are, and chunks in a stage."""

    tp: int
    pp: int
    ep: int
    chunks: int = 1


def settings_for(target: MindSpeedMMTarget, model: Model) -> Settings:
    """What a job's target asks for. Raises LayoutError for modules that the model has not, and for lists that are no table."""
    stated = {module: table_of(getattr(target, field), field) for module, (field, _) in FIELDS.items()}
    tables = {module: table for module, table in stated.items() if table is not None}
    tp = max(target.tp_size or 1, target.vit_tp_size or 0, target.audio_tp_size or 0)
    stages, chunks = (max(map(size, tables.values()), default=1) for size in (lambda table: len(table[0]), len))
    grid = Grid(tp, stages, target.ep_size or 1, chunks)
    counts = {module.name: _placed(module, tables, grid) for module in model.modules}
    absent = [module for module, table in tables.items() if module not in (*counts, *model.left_out) and any(map(any, table))]
    if absent:
        raise LayoutError(f"{FIELDS[absent[0]][0]}: this {model.family.name} has no {absent[0]}", do="leave it out")
    check_cut(model.family.name, tp)
    vocab = target.resize_vocab_size or model.sizes.get("vocab", 0)
    canonical = bool(target.enable_canonical_hf_struct)
    tables_here = tables_of(model.family.name, canonical)
    tensor = {module: size_of(target, module) if is_cut(tables_here.of(module)) else 1 for module in counts}
    return Settings(cut_of(counts, tensor, grid, vocab, returns=target.ldt), canonical)


def settings_like(settings: Settings, target: MindSpeedMMTarget, model: Model, source: object) -> Settings:
    """The settings, in the form of rank files that are cut anew: a job that says none does not ask for another."""
    if target.enable_canonical_hf_struct is not None or not isinstance(source, Settings) or source.canonical == settings.canonical:
        return settings
    return settings_for(target.model_copy(update={"enable_canonical_hf_struct": source.canonical}), model)


def cut_of(counts: Mapping[str, Counts], tensor: Mapping[str, int], grid: Grid, vocab: int, *, returns: bool = False) -> Cut:
    """The cut of modules by their tables and tensor parallel sizes."""
    whole = Parallel(tp=grid.tp, pp=grid.pp, ep=grid.ep, etp=grid.tp, virtual_stages=grid.chunks if grid.chunks > 1 else None)
    modules = {
        module: replace(whole, tp=tensor[module], etp=tensor[module], virtual_stages=None, counts=table) for module, table in counts.items()
    }
    if DECODER in modules:
        full = filled(counts[DECODER], grid.pp, grid.chunks)
        modules[DECODER] = replace(modules[DECODER], counts=full, returns=returns)
    return Cut(whole, padded_vocab=vocab, folder=FOLDER, modules=modules)


def _placed(module: Module, tables: Mapping[str, Counts], grid: Grid) -> Counts:
    """A module's table: as it is stated; one that is not lies in the first stage, or without layers in all."""
    if module.name in tables:
        return tables[module.name]
    count = module.num_layers
    return filled(((count,),), grid.pp, grid.chunks) if count or module.name in FIELDS else EVERYWHERE


def size_of(stated: MindSpeedMMLayout, module: str) -> int:
    """A module's tensor parallel size: its own, or the decoder's where it is 0 or not stated; a module without a field is not cut."""
    if module not in FIELDS:
        return 1
    return getattr(stated, FIELDS[module][1]) or stated.tp_size or 1


def table_of(stated: tuple[int, ...] | tuple[tuple[int, ...], ...] | None, field: str) -> Counts | None:
    """A list of layers as a table [chunk][stage]. Raises LayoutError where its rows have different lengths."""
    if stated is None:
        return None
    rows = tuple((row,) if isinstance(row, int) else tuple(row) for row in stated)
    table = (tuple(row[0] for row in rows),) if isinstance(stated[0], int) else rows
    if len({len(row) for row in table}) > 1:
        raise LayoutError(f"{field} {shown(table)}: every virtual stage must have as many pipeline stages")
    return table


def filled(table: Counts, stages: int, chunks: int) -> Counts:
    """The table with empty stages behind it.

    >>> filled(((4,),), 2, 2)
    ((4, 0), (0, 0))
    """
    rows = tuple(row + (0,) * (stages - len(row)) for row in table)
    return rows + ((0,) * stages,) * (chunks - len(rows))
