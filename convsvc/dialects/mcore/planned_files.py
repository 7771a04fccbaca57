"""The files of ranks as they are planned: alike ones once, what training does not load beside them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from convsvc.dialects.alike import plan_alike
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import NewFile
from convsvc.formats import safetensors, torch_zip
from convsvc.formats.base import Skeleton, TensorSpec
from convsvc.notes import Note

ARCHIVE = "model_optim_rng"
Chunks = Mapping[str, Mapping[str, TensorSpec]]


class PlannedFiles(NamedTuple):
    """The files, the skeletons that those have that are alike, and a note for each file of what is carried."""

    files: tuple[NewFile, ...]
    skeletons: tuple[Skeleton, ...]
    notes: tuple[Note, ...]


def plan_rank_files(
    paths: Iterable[str], layout: Layout, specs: list[TensorSpec], chunks: list[str], whole: Callable[[Chunks], Mapping[str, Any]]
) -> PlannedFiles:
    """A file for each of the ranks' paths, also where a rank holds nothing; other files of the layout hold what is carried.

    `specs` are the layout's kinds', named CHUNK/NAME; `whole` makes what a file holds of its tensors by chunk.
    """
    ranks: dict[str, list[int]] = {path: [] for path in paths}
    beside: dict[str, list[TensorSpec]] = {}
    for entry in layout.entries:
        held = ranks.get(entry.file)
        if held is None:
            beside.setdefault(entry.file, []).append(specs[entry.kind])
        else:
            held.append(entry.kind)
    skeletons, chosen = plan_alike(
        ranks.values(), specs, lambda held: torch_zip.plan_skeleton(whole(_by_chunk(held, chunks)), archive=ARCHIVE)
    )
    files = [NewFile(path, "torch_zip", number) for path, number in zip(ranks, chosen, strict=True)]
    files += [NewFile(path, "safetensors", number) for number, path in enumerate(beside, len(skeletons))]
    skeletons += tuple(map(safetensors.plan_skeleton, beside.values()))
    return PlannedFiles(tuple(files), skeletons, tuple(_carried(path, held) for path, held in beside.items()))


def _by_chunk(specs: Iterable[TensorSpec], chunks: Iterable[str]) -> Chunks:
    held: dict[str, dict[str, TensorSpec]] = {chunk: {} for chunk in chunks}
    for spec in specs:
        chunk, _, stored = spec.name.partition("/")
        held[chunk][stored] = spec
    return held


def _carried(path: str, specs: list[TensorSpec]) -> Note:
    text = f"{len(specs)} tensor(s) that training does not load, e.g. {specs[0].name}, are kept for the way back in {path}"
    return Note("carried", text)
