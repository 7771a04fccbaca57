"""Opening a checkpoint of MindSpore Transformers: what lies where, from headers, strategy files and maps alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from convsvc.dialects.checkpoint import Checkpoint, Found, SourceFile
from convsvc.dialects.cuts import Cut
from convsvc.dialects.files import check_directory
from convsvc.dialects.mindformers.chunked import choose_iteration, find_chunked, is_chunked, iterations
from convsvc.dialects.mindformers.distributed import Distributed, find_distributed, has_ranks
from convsvc.dialects.mindformers.facts import find_facts
from convsvc.dialects.mindformers.job import MindFormersSource
from convsvc.dialects.mindformers.whole import MAP, Key, find_whole
from convsvc.dialects.recognise import refuse
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots

# What unified_safetensors.py and training call the directories in which their files are.
UNIFIED, RANKS = "unified_safe", "checkpoint"


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found out beside the tensors: the whole tensors' shapes, and for cut ones what lies in which file."""

    shapes: Mapping[str, tuple[int, ...]]
    cuts: Mapping[str, tuple[Cut, ...]] = field(default_factory=dict)


def looks_like(root: RootedPath) -> bool:
    """Whether the names in a directory are those that MindSpore Transformers gives."""
    names = root.names()
    return MAP in names or UNIFIED in names or has_ranks(root) or has_ranks(root / RANKS) or bool(iterations(root)) or is_chunked(root)


def open_checkpoint(source: MindFormersSource, roots: Roots) -> Checkpoint:
    """The checkpoint at `source.path`: cut into rank directories, or whole. Raises SourceError, FormatError, JobError; PathRefused."""
    root = RootedPath(source.path, roots)
    check_directory(root)
    if (root / UNIFIED).is_dir():
        root = root / UNIFIED
    files, found, notes, opened = _left_out(source, *_find(source, root))
    facts = find_facts(source, root, opened.shapes, roots)
    return Checkpoint(str(root), tuple(files), found, facts, opened, tuple(notes))


def _left_out(
    source: MindFormersSource, files: list[SourceFile], found: Mapping[Key, Found], notes: list[Note], opened: Opened
) -> tuple[list[SourceFile], Mapping[Key, Found], list[Note], Opened]:
    """Without the tensors that the job leaves out by their names' beginning."""
    prefix = source.leave_out_prefix
    names = {name for _, name in found if prefix is not None and name.startswith(prefix)}
    if not names:
        return files, found, notes, opened
    kept = {key: each for key, each in found.items() if key[1] not in names}
    shapes = {name: shape for name, shape in opened.shapes.items() if name not in names}
    cuts = {name: cut for name, cut in opened.cuts.items() if name not in names}
    said = Note("ignored", f"{len(names)} tensor(s) whose names begin with {prefix!r}, as the job says: e.g. {min(names)}")
    return files, kept, [*notes, said], replace(opened, shapes=shapes, cuts=cuts)


def _find(source: MindFormersSource, root: RootedPath) -> tuple[list[SourceFile], Mapping[Key, Found], list[Note], Opened]:
    place = next((place for place in (root, root / RANKS) if has_ranks(place)), None)
    if place is not None:
        strategy = None if source.strategy_path is None else RootedPath(source.strategy_path, root.roots)
        return _of_ranks(find_distributed(place, strategy, source.file_suffix, source.has_redundancy), [])
    chosen: list[Note] = []
    if iterations(root):
        root, chosen = choose_iteration(root, source.file_suffix)
    if is_chunked(root):
        return _of_ranks(find_chunked(root, source.has_redundancy), chosen)
    if not any(name.endswith(".safetensors") for name in root.names()):
        refuse(root, "a checkpoint of MindSpore Transformers", but=("mindformers",))
    files, found, notes = find_whole(root)
    return files, found, [*chosen, *notes], Opened({name: each.tensor.shape for (_, name), each in found.items()})


def _of_ranks(cut: Distributed, notes: list[Note]) -> tuple[list[SourceFile], Mapping[Key, Found], list[Note], Opened]:
    return cut.files, cut.found, [*notes, *cut.notes], Opened(cut.shapes, cut.cuts)
