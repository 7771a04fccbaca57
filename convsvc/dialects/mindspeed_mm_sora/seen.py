"""How rank files of a diffusion model are cut, and what model is in them, as their names and shapes show. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.diffusers.seen import Shown, check_counts, complete, equations, recognise_model
from convsvc.dialects.mindspeed_mm_sora.form import Form
from convsvc.dialects.mindspeed_mm_sora.layout import Counts, Settings
from convsvc.dialects.mindspeed_mm_sora.tables import forms
from convsvc.errors import SourceError
from convsvc.families import FAMILIES
from convsvc.models.diffusion import Diffusion, Seen, Spelling, check_labels, expected, groups_of, labels_of
from convsvc.models.placement import Table

Cell = tuple[int, int]
Shapes = dict[str, tuple[int, ...]]
RANK = re.compile(r"mp_rank_(\d+)(?:_(\d+))?")
# What the names of files begin with that are no ranks of the checkpoint, but of its adapters.
BESIDE = "adapters: "


@dataclass(frozen=True, slots=True)
class Ranks:
    """The shapes on the first tensor rank by (stage, chunk), by names without their chunk; how many ranks, stages, chunks there are."""

    cells: Mapping[Cell, Shapes]
    tp: int
    stages: int
    chunks: int
    staged: bool
    numbered: bool
    folder: str = field(default="")

    def names(self) -> set[str]:
        return {name for shapes in self.cells.values() for name in shapes}


def ranks_of(checkpoint: Checkpoint) -> Ranks:
    """The grid that directories and keys show. Raises SourceError for ranks that are missing, and keys that are not those of chunks."""
    places: dict[str, tuple[int, int | None]] = {}
    for folder in dict.fromkeys(Path(file.name).parent.name for file in checkpoint.files if not file.name.startswith(BESIDE)):
        match = RANK.fullmatch(folder)
        if match is None:
            raise SourceError(f"{checkpoint.path}: {folder} is no rank directory of a diffusion model")
        places[folder] = int(match[1]), None if match[2] is None else int(match[2])
    if len({stage is None for _, stage in places.values()}) != 1:
        raise SourceError(f"{checkpoint.path} has rank directories with stages and without", do="give a directory of one checkpoint")
    tp, stages = (max((place[at] or 0) + 1 for place in places.values()) for at in (0, 1))
    there = {(rank, stage or 0) for rank, stage in places.values()}
    missing = [f"tensor rank {t}, stage {p}" for p in range(stages) for t in range(tp) if (t, p) not in there]
    if missing:
        raise SourceError(f"{checkpoint.path}: {len(missing)} ranks are missing", facts=missing[:12], do="fetch them")
    keys = {name.partition("/")[0] for _, name in checkpoint.found}
    numbered = "model" not in keys
    chunks = max((int(key.removeprefix("model") or 0) for key in keys), default=0) + 1
    if not numbered and len(keys) > 1:
        raise SourceError(
            f"the rank files of {checkpoint.path} hold {', '.join(sorted(keys))}", do="they hold model, or model0, model1, ..."
        )
    cells: dict[Cell, Shapes] = {(stage, chunk): {} for stage in range(stages) for chunk in range(chunks)}
    for (file, name), found in checkpoint.found.items():
        rank, stage = places[Path(file).parent.name]
        if rank == 0:
            key, _, stored = name.partition("/")
            cells[stage or 0, int(key.removeprefix("model") or 0)][stored] = found.tensor.shape
    staged = any(stage is not None for _, stage in places.values())
    return Ranks(cells, tp, stages, chunks, staged, numbered)


def candidates(family: Diffusion | None = None) -> Iterator[tuple[Diffusion, Spelling]]:
    """The forms that rank files may have."""
    for name, form in forms().items():
        its = FAMILIES[name]
        if isinstance(its, Diffusion) and family in (None, its):
            yield its, form.spelling


def recognise_ranks(ranks: Ranks, family: Diffusion | None = None) -> Shown | None:
    return recognise_model(ranks.names(), candidates(family))


def see_ranks(ranks: Ranks, shown: Shown, checkpoint: Checkpoint, folder: str) -> tuple[Seen, Settings]:
    """The model, and how it is cut. Raises SourceError for layers that are missing or shapes that contradict each other."""
    form = forms()[shown.family.name]
    bare = {cell: _bare(shapes, shown.prefix) for cell, shapes in ranks.cells.items()}
    whole, tables = (bare[0, 0], {}) if not (ranks.staged or ranks.numbered) else _whole(bare, ranks, form, checkpoint.path)
    counts, *_ = *tables.values(), None
    stacks = labels_of(form.spelling, whole)
    check_labels(shown.family.name, checkpoint.path, expected(form.spelling, stacks))
    check_counts(shown.family, stacks, checkpoint.facts, checkpoint.path)
    rough = Seen(stacks, groups_of(form.spelling, whole), {})
    beside = {name: table for name, table in list(tables.items())[1:] if stacks[name]}
    settings = Settings(form, ranks.tp, counts, ranks.numbered, ranks.staged, folder, shown.prefix, shown.family.sums, beside)
    return complete(shown, rough, whole, equations(shown, rough, whole, ranks.tp), checkpoint.path), settings


def _bare(shapes: Shapes, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items()}


def _whole(cells: Mapping[Cell, Shapes], ranks: Ranks, form: Form, origin: str) -> tuple[Shapes, dict[str, Counts]]:
    """All tensors by the numbers that layers have in the model, and how many of each stack lie in each chunk and stage."""
    spelling = form.spelling
    if len(spelling.stacks) > 1 and not form.pp:
        raise SourceError(f"{origin} has pipeline stages, of a model of {len(spelling.stacks)} stacks", do="see which tool wrote it")
    here = {cell: labels_of(spelling, shapes) for cell, shapes in cells.items()}
    for cell, stacks in here.items():
        there = {name: labels for name, labels in stacks.items() if labels}
        check_labels("the model", f"{origin}, stage {cell[0]}, chunk {cell[1]}", there)
    tables = {
        name: tuple(tuple(len(here[stage, chunk][name]) for stage in range(ranks.stages)) for chunk in range(ranks.chunks))
        for name in spelling.stacks
    }
    bare = dict(cells)
    for name, stack in spelling.stacks.items():
        first = 0
        for stage, chunk, count in Table(tables[name]).cells():
            bare[stage, chunk] = _renumbered(bare[stage, chunk], stack.prefix, count, first)
            first += count
    whole: Shapes = {}
    for (stage, chunk), shapes in bare.items():
        _add(whole, shapes, f"{origin}, stage {stage}, chunk {chunk}")
    return whole, tables


def _renumbered(shapes: Shapes, prefix: str, count: int, first: int) -> Shapes:
    head, _, tail = prefix.partition("{layer}")
    pattern = re.compile(re.escape(head) + r"(\d+)" + re.escape(tail))

    def named(name: str) -> str:
        match = pattern.match(name)
        return name if match is None else f"{head}{int(match[1]) + first}{tail}{name[match.end() :]}"

    return {named(name): shape for name, shape in shapes.items()}


def _add(whole: Shapes, more: Shapes, where: str) -> None:
    twice = whole.keys() & more.keys()
    if twice:
        raise SourceError(f"{where} has {min(twice)}, which another stage has too", do="see that its files are of one checkpoint")
    whole |= more
