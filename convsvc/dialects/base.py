"""What a dialect is: how one framework names and lays out the logical tensors, and its directories.

A dialect answers twice with the same declarations: which stored tensors a checkpoint of this model must hold (to read it), and
which one it shall write. Reading opens headers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from convsvc.formats.base import Skeleton, StoredTensor
from convsvc.models.facts import Facts
from convsvc.models.model import Family, Model
from convsvc.notes import Note
from convsvc.roots import Roots
from convsvc.spec import Options
from convsvc.tensors.blocks import Laid

# What every target has beside its framework's own files: the list of what was made, and the report of how.
MANIFEST, REPORT = ".convsvc-made.json", "conversion-report.json"


class Entry(NamedTuple):
    """A stored tensor of a layout: the file it lies in, and the scope it belongs to.

    `file` is relative to the checkpoint; empty where the name alone tells (Hugging Face: any shard). `unit` is the scope's logical
    prefix: what belongs together in a task or a shard.
    """

    file: str
    laid: Laid
    unit: str

    def key(self, name: str | None = None) -> tuple[str, str]:
        return self.file, name or self.laid.name


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file with tensors: its absolute path, its `formats/` name, and its size and time as they were when it was indexed.

    `name` is the path as the checkpoint has it, before links are followed: in a hub cache every file lies in blobs/, under no name.
    `digest` is of its headers.
    """

    path: str
    format: str
    size_bytes: int
    mtime_ns: int
    name: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A stored tensor that is there: number of its file, and where it lies in it; its scale where it is quantised."""

    file: int
    tensor: StoredTensor
    scale: Scale | None = None

    @property
    def value_dtype(self) -> str:
        """What its elements are once they are read."""
        return self.tensor.dtype if self.scale is None else self.scale.dtype


@dataclass(frozen=True, slots=True)
class Scale:
    """The factors of a quantised tensor, one for each block of `rows` x `columns` elements: a stored tensor of its own.

    `dtype` is what the products are: BF16, or F32 where the job wants more than BF16 holds.
    """

    name: str
    found: Found
    rows: int
    columns: int
    dtype: str = "BF16"


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What a checkpoint says of the LoRA adapters in it, and where (`origin`, for errors); None where it says nothing.

    The factor of a module's product is alpha / r, with rslora alpha / sqrt(r). A pattern is a regular expression for the end of a module's
    name, whose r or alpha is another one (peft/tuners/lora/config.py).
    """

    origin: str
    r: int | None = None
    alpha: float | None = None
    use_rslora: bool | None = None
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A source checkpoint, from its headers.

    `found` holds every stored tensor by (file, name), file being empty where an Entry's is. `settings` are the dialect's own: what
    its layout needs beside the model. `notes` say what is there and is no weight. `lora`: what is said of adapters, if there are any.
    """

    path: str
    files: tuple[SourceFile, ...]
    found: Mapping[tuple[str, str], Found]
    facts: Facts
    settings: Any = None
    notes: tuple[Note, ...] = ()
    lora: AdapterFacts | None = None


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file of the target: its path relative to the target, its format, and its skeleton; tensors in it bear the entries' names."""

    path: str
    format: str
    skeleton: Skeleton


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file of the target that is not tensors: its relative path, and its text or the file it is copied from.

    `last` files (the iteration tracker, the index) are written after everything else: they make a checkpoint look complete. A file that is
    copied has its size and time, as planning saw them.
    """

    path: str
    text: str | None = None
    copy_from: str | None = None
    last: bool = False
    size_bytes: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """Everything a target consists of, and `notes` for what a user should know about it."""

    files: tuple[NewFile, ...]
    side_files: tuple[SideFile, ...]
    notes: tuple[Note, ...] = ()


class Dialect(Protocol):
    """The two questions, and what a new checkpoint's files are."""

    name: str

    def open(self, source: Any, roots: Roots) -> Checkpoint:
        """What lies at `source.path`, from headers alone. Raises SourceError, FormatError, PathRefused for what is not in the roots."""

    def by_family_names(self, checkpoint: Checkpoint, family: Family) -> Checkpoint:
        """The checkpoint by the names of its family, where it is stored under others. Pure."""

    def read_settings(self, source: Any, checkpoint: Checkpoint, model: Model) -> Any:
        """How the checkpoint is laid out; what the job states must agree. Raises JobError, SourceError."""

    def assumed(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The layout that is taken for a checkpoint's and where each number of it came from: how an error about it begins."""

    def write_settings(self, target: Any, model: Model) -> Any:
        """How the target shall be laid out. Raises LayoutError."""

    def layout(self, model: Model, settings: Any) -> tuple[Entry, ...]:
        """The stored tensors of this model. Pure. Raises LayoutError."""

    def ignores(self, key: tuple[str, str], model: Model) -> str | None:
        """Why a stored tensor that no entry claims may be left out; None if it may not."""

    def output(
        self,
        target: Any,
        model: Model,
        settings: Any,
        facts: Facts,
        entries: tuple[Entry, ...],
        dtypes: tuple[str, ...],
        options: Options,
        roots: Roots,
    ) -> tuple[tuple[Entry, ...], Output]:
        """The target's files. `dtypes` are the entries'; the entries come back with their file filled in. `roots` hold what is copied."""
