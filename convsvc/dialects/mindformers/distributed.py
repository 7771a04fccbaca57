"""Checkpoints that are cut over ranks: `rank_R/` directories, and the strategy files that say what of each tensor a rank holds.

Ranks count stage by stage: the global rank is stage x ranks of a stage + rank within it. Where redundancy was removed, one of the ranks
that would hold the same keeps a tensor; so what is there decides, and all of it together must be whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from convsvc.dialects.checkpoint import Found, SourceFile
from convsvc.dialects.cuts import Cut
from convsvc.dialects.files import index_files
from convsvc.dialects.mindformers.files import check_one_step, choose_file
from convsvc.dialects.mindformers.mesh import Division, cuts_of
from convsvc.dialects.mindformers.names import why_ignored
from convsvc.dialects.mindformers.whole import Key
from convsvc.errors import SourceError
from convsvc.formats.strategy.reader import read_strategies
from convsvc.formats.strategy.records import ParameterLayout, layouts_by_stage
from convsvc.notes import Note
from convsvc.roots import RootedPath

RANK = re.compile(r"rank_(\d{1,7})")
STRATEGY = re.compile(r".*\.(ckpt|json)")
FOLDER = "strategy"
SHOWN = 8

Stages = Mapping[int, Mapping[str, ParameterLayout]]


@dataclass(frozen=True, slots=True)
class Distributed:
    """Files, tensors by (file, name), notes; the whole tensors' shapes, and what of each lies in which file."""

    files: list[SourceFile]
    found: dict[Key, Found]
    notes: list[Note]
    shapes: dict[str, tuple[int, ...]]
    cuts: dict[str, tuple[Cut, ...]]


def has_ranks(folder: RootedPath) -> bool:
    """Whether there are rank directories."""
    return folder.is_dir() and any(RANK.fullmatch(name) for name in folder.names())


def find_distributed(root: RootedPath, strategy: RootedPath | None, suffix: str | None, has_redundancy: bool | None = None) -> Distributed:
    """The checkpoint in the rank directories of `root`. `strategy` is their directory, or one file, where the job says it.

    Raises SourceError where there is no strategy, a rank's file is unclear, ranks disagree or are of different steps, a file lacks what its
    rank has, or parts of tensors are in no file.
    """
    stages = read_layouts(root, strategy)
    numbers = sorted(int(rank[1]) for name in root.names() if (rank := RANK.fullmatch(name)))
    names = {number: _rank_file(root, number, suffix) for number in numbers}
    check_one_step(names)
    files: list[SourceFile] = []
    found: dict[Key, Found] = {}
    whole: set[str] = set()
    paths = [root / name for name in names.values()]
    for number, (name, (index, file)) in enumerate(zip(names.values(), index_files(paths), strict=True)):
        files.append(file)
        found |= {(name, tensor.name): Found(number, tensor) for tensor in index.tensors}
        if holds_all(index.metadata, has_redundancy):
            whole.add(name)
    size = _ranks_of_a_stage(stages)
    _check_ranks(root, numbers, size * len(stages))
    cuts, shapes = _cuts(root, names, found, stages, size)
    _check_whole(root, names, found, stages, size, whole)
    missing = size * len(stages) - len(numbers)
    notes = (
        [Note("advice", f"{missing} of {size * len(stages)} rank directories are not there; all they hold is in others")] if missing else []
    )
    return Distributed(files, found, notes, shapes, cuts)


def holds_all(metadata: Mapping[str, str], stated: bool | None) -> bool:
    """Whether a file should hold all that its rank has: as it says itself, else as is stated, else yes (safetensors' remove_redundancy)."""
    said = metadata.get("remove_redundancy")
    return said.lower() != "true" if said else stated is not False


def read_layouts(root: RootedPath, stated: RootedPath | None) -> Stages:
    """Every parameter's layout, by pipeline stage. Raises SourceError where files of one stage contradict each other."""
    stages: dict[int, dict[str, ParameterLayout]] = {}
    origin: dict[tuple[int, str], RootedPath] = {}
    seen: set[int] = set()
    paths = _strategy_files(root, stated)
    for path, strategy in zip(paths, read_strategies(paths), strict=True):
        if id(strategy) in seen:  # the same bytes as another rank's
            continue
        seen.add(id(strategy))
        for stage, layouts in layouts_by_stage(strategy).items():
            held = stages.setdefault(stage, {})
            for name, layout in layouts.items():
                if held.setdefault(name, layout) != layout:
                    raise SourceError(
                        f"{path} and {origin[stage, name]} cut {name} in different ways", do="give the strategy files of one training"
                    )
                origin.setdefault((stage, name), path)
    return dict(sorted(stages.items()))


def _strategy_files(root: RootedPath, stated: RootedPath | None) -> list[RootedPath]:
    if stated is not None and stated.is_file():
        return [stated]
    parent = RootedPath(os.path.dirname(root.path.rstrip("/")), root.roots)
    folders = [stated] if stated is not None else [root / FOLDER, parent / FOLDER]
    for folder in folders:
        names = [name for name in folder.names() if STRATEGY.fullmatch(name)] if folder.is_dir() else []
        if names:
            return [folder / name for name in names]
    raise SourceError(
        f"{root} is cut over ranks, and no strategy file says how",
        facts=[f"looked in {folder}" for folder in folders],
        do="state source.strategy_path: the directory of ckpt_strategy_rank_*.ckpt that training wrote beside its checkpoints",
    )


def _rank_file(root: RootedPath, number: int, suffix: str | None) -> str:
    folder = root / f"rank_{number}"
    try:
        return f"{folder.name}/{choose_file(folder.names(), suffix)}"
    except SourceError as error:
        raise error.beginning(f"{folder}") from None


def _ranks_of_a_stage(stages: Stages) -> int:
    sizes = {prod(layout.dev_matrix) for layouts in stages.values() for layout in layouts.values()}
    if len(sizes) != 1:
        raise SourceError(
            f"the strategy files speak of stages of {' and '.join(map(str, sorted(sizes)))} ranks", do="see which belong together"
        )
    return sizes.pop()


def _check_ranks(root: RootedPath, numbers: Sequence[int], expected: int) -> None:
    if numbers[-1] >= expected:
        raise SourceError(
            f"{root} has rank_{numbers[-1]}, and the strategy is for {expected} ranks", do="give the strategy files of this checkpoint"
        )


def _cuts(
    root: RootedPath, files: Mapping[int, str], found: Mapping[Key, Found], stages: Stages, size: int
) -> tuple[dict[str, tuple[Cut, ...]], dict[str, tuple[int, ...]]]:
    cuts: dict[str, list[Cut]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    lacking: list[str] = []
    for number, (stage, layouts) in enumerate(stages.items()):
        ranks = {number * size + local: local for local in range(size)}
        held = {name: [rank for rank in ranks if (files.get(rank, ""), name) in found] for name in layouts}
        first = {name: found[files[have[0]], name].tensor.shape for name, have in held.items() if have}
        pieces = cuts_of([layout for name, layout in layouts.items() if name in first], {name: len(shape) for name, shape in first.items()})
        for name, piece in pieces.items():
            whole = piece.whole(first[name])
            if shapes.setdefault(name, whole) != whole:
                raise SourceError(f"{name} is {list(whole)} in stage {stage}, {list(shapes[name])} in another")
            boxes = [(rank, *piece.box(ranks[rank], whole)) for rank in held[name]]
            cuts.setdefault(name, []).extend(Cut(files[rank], starts, stops) for rank, starts, stops in boxes)
            lacking += _lacking(name, piece, whole, {ranks[rank] for rank in held[name]}, number * size)
        lacking += [f"{name}: in no rank's file" for name in layouts if name not in first and why_ignored(name) is None]
    if lacking:
        raise SourceError(
            f"{root}: {len(lacking)} part(s) of tensors are in no rank's file",
            facts=shown(lacking),
            do="fetch the rank directories that are missing; nothing can stand in for them",
        )
    return {name: tuple(held) for name, held in cuts.items()}, shapes


def _check_whole(
    root: RootedPath, files: Mapping[int, str], found: Mapping[Key, Found], stages: Stages, size: int, whole: set[str]
) -> None:
    """Raises SourceError where a file that should hold all of its rank's tensors lacks one that another rank has: it was cut short."""
    kept = {name for _, name in found}
    names = [{name for name in layouts if name in kept} for layouts in stages.values()]
    held: dict[str, set[str]] = {file: set() for file in whole}
    for file, name in found:
        if file in whole:
            held[file].add(name)
    lacks = [
        f"rank_{rank} lacks {name}, which its strategy gives it: {file}"
        for rank, file in files.items()
        if file in whole
        for name in sorted(names[rank // size] - held[file])
    ]
    if lacks:
        raise SourceError(
            f"{root}: {len(lacks)} tensor(s) are not in the file of a rank that has them",
            facts=shown(lacks),
            do="fetch these files again; if redundant tensors were left out on saving, state source.has_redundancy: false",
        )


def shown(facts: Sequence[str]) -> list[str]:
    """The first of many facts, and how many more there are."""
    return [*facts[:SHOWN], *([f"and {len(facts) - SHOWN} more"] if len(facts) > SHOWN else [])]


def _lacking(name: str, piece: Division, whole: tuple[int, ...], have: set[int], offset: int) -> Iterator[str]:
    """What of a tensor no rank has, in words, with the ranks that should."""
    for group in piece.groups():
        if have.isdisjoint(group):
            starts, stops = piece.box(group[0], whole)
            box = ", ".join(f"{start}:{stop}" for start, stop in zip(starts, stops, strict=True))
            yield f"{name}[{box}] of {list(whole)}: {' or '.join(f'rank_{offset + rank}' for rank in group[:SHOWN])} should have it"
