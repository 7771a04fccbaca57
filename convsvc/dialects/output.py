"""What a target consists of: its files of tensors, the files beside them, and what they are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from convsvc.dialects.checkpoint import Training
from convsvc.dialects.layout import Layout
from convsvc.encodings.base import Written
from convsvc.encodings.release import Release
from convsvc.formats.base import Skeleton, TensorSpec
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import Roots
from convsvc.spec import Options

SaidT = TypeVar("SaidT")
SettingsT = TypeVar("SettingsT")

# What every target has beside its framework's own files: the list of what was made, and the report of how.
MANIFEST, REPORT = ".convsvc-made.json", "conversion-report.json"
CARD = "conversion-report.md"  # the report for people, of a target that people publish
PICTURE = "conversion-report.html"  # which file has which part of which tensor, on both sides
BESIDE = (REPORT, CARD, PICTURE)  # what may lie beside a target, under its name


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file of the target: its path relative to the target, its format, and the number of its skeleton in the output."""

    path: str
    format: str
    skeleton: int


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file of the target that is not tensors: its relative path, and its text (or bytes) or the file it is copied from.

    `last` files (the iteration tracker, the index) are written after everything else: they make a checkpoint look complete. A file that is
    copied has its size and time, as planning saw them. One with `hashes_of` says the SHA-256 of every other file of the target in that
    folder, as Megatron's integrity.json does: `hashes_text`.
    """

    path: str
    text: str | bytes | None = None
    copy_from: str | None = None
    last: bool = False
    size_bytes: int = 0
    mtime_ns: int = 0
    hashes_of: str | None = None

    @property
    def data(self) -> bytes:
        """What it holds, where it is not copied."""
        return self.text if isinstance(self.text, bytes) else (self.text or "").encode()


def hashes_text(hashes: Mapping[str, str]) -> bytes:
    """What a side file says of the hashes of the files beside it, by their names (megatron/core/dist_checkpointing/validation.py, 0.18)."""
    return json.dumps({"algorithm": "sha256", "files": dict(sorted(hashes.items()))}, indent=2).encode()


@dataclass(frozen=True, slots=True)
class Output:
    """Everything a target consists of, and `notes` for what a user should know about it.

    Files that are alike have one of the `skeletons`; tensors in it bear the names of the layout's kinds. `encoded`: how those of
    these names are written instead, in several pieces. `hashed`: files are hashed while they are written, so that each is one task's.
    `beside`: (file, name) of tensors that are of none of the layout's kinds. `instead`: logical tensors of the source that the target does
    not hold, as it has others for them, which a note says.
    """

    files: tuple[NewFile, ...]
    skeletons: tuple[Skeleton, ...]
    side_files: tuple[SideFile, ...]
    notes: tuple[Note, ...] = ()
    encoded: Mapping[str, Written] = field(default_factory=dict)
    hashed: bool = False
    beside: tuple[tuple[str, str], ...] = ()
    instead: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Draft(Generic[SaidT, SettingsT]):
    """What a target's files are made from: what the job says of it, the model, how it is laid out; `dtypes` are the layout's kinds'.

    `facts` are the source's, and so is what training needs to go on, where that is asked for. Files that are copied must lie in `roots`.
    `release`: how the weights were published, where that is known.
    """

    target: SaidT
    model: Model
    settings: SettingsT
    facts: Facts
    layout: Layout
    dtypes: tuple[str, ...]
    options: Options
    roots: Roots
    release: Release | None = None
    training: Training | None = None

    def specs(self) -> list[TensorSpec]:
        """What the kinds are in a file, by their numbers."""
        return [TensorSpec(laid.name, dtype, laid.shape) for laid, dtype in zip(self.layout.kinds, self.dtypes, strict=True)]
