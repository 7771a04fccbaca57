"""Opening a checkpoint of MindSpore Transformers: what lies where, from headers, strategy files and maps alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from convsvc.dialects.base import Checkpoint, Found, SourceFile
from convsvc.dialects.files import check_directory
from convsvc.dialects.mindformers.facts import find_facts
from convsvc.dialects.mindformers.job import MindFormersSource
from convsvc.dialects.mindformers.layout import Cut
from convsvc.dialects.mindformers.whole import MAP, find_whole
from convsvc.dialects.recognise import refuse
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots

RANK = re.compile(r"rank_\d+")
UNIFIED = "unified_safe"


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found out beside the tensors: the whole tensors' shapes, and for cut ones what lies in which file."""

    shapes: Mapping[str, tuple[int, ...]]
    cuts: Mapping[str, tuple[Cut, ...]] = field(default_factory=dict)


def looks_like(root: RootedPath) -> bool:
    """Whether the names in a directory are those that MindSpore Transformers gives."""
    names = root.names()
    return MAP in names or UNIFIED in names or _has_ranks(root, names) or ("checkpoint" in names and _has_ranks(root / "checkpoint"))


def _has_ranks(folder: RootedPath, names: list[str] | None = None) -> bool:
    return any(RANK.fullmatch(name) for name in (names if names is not None else folder.names() if folder.is_dir() else ()))


def open_checkpoint(source: MindFormersSource, roots: Roots) -> Checkpoint:
    """The checkpoint at `source.path`: cut into rank directories, or whole. Raises SourceError, FormatError, JobError; PathRefused."""
    root = RootedPath(source.path, roots)
    check_directory(root)
    if (root / UNIFIED).is_dir():
        root = root / UNIFIED
    files, found, notes, opened = _find(source, root)
    facts = find_facts(source, root, opened.shapes, roots)
    return Checkpoint(str(root), tuple(files), found, facts, opened, tuple(notes))


def _find(source: MindFormersSource, root: RootedPath) -> tuple[list[SourceFile], Mapping[tuple[str, str], Found], list[Note], Opened]:
    refuse_unless = root.names()
    if not any(name.endswith(".safetensors") for name in refuse_unless):
        refuse(root, "a checkpoint of MindSpore Transformers")
    files, found, notes = find_whole(root)
    return files, found, notes, Opened({name: each.tensor.shape for (_, name), each in found.items()})
