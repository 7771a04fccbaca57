"""What a dialect is: how one framework names and lays out the logical tensors, and its directories. Two protocols: Source and Target.

Both answer with the same declarations: which stored tensors a checkpoint of this model must hold (to read it), and which one shall be
written. Reading opens headers only. Whatever general code wants to know of a format is a question here, never a test of its name.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import repeat
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from convsvc.dialects.iterations import Iteration, numbered_folders, tracked
from convsvc.encodings.base import Form, Written
from convsvc.encodings.release import Release
from convsvc.errors import JobError
from convsvc.formats.base import Skeleton, StoredTensor, TensorSpec
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.models.unsure import with_seen_sizes
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Job, Lora, Options
from convsvc.spec.places import SourceSpec, TargetSpec
from convsvc.tensors.blocks import Laid, LogicalTensor
from convsvc.tensors.boxes import Box
from convsvc.tensors.quick import quick

SaidT = TypeVar("SaidT")
SettingsT = TypeVar("SettingsT")

# What every target has beside its framework's own files: the list of what was made, and the report of how.
MANIFEST, REPORT = ".convsvc-made.json", "conversion-report.json"
CARD = "conversion-report.md"  # the report for people, of a target that people publish
PICTURE = "conversion-report.html"  # which file has which part of which tensor, on both sides
BESIDE = (REPORT, CARD, PICTURE)  # what may lie beside a target, under its name


class Entry(NamedTuple):
    """A stored tensor of a layout: the file it lies in, the number of its kind, and the scope it belongs to.

    `file` is relative to the checkpoint; empty where the name alone tells (Hugging Face: any shard). `unit` is the scope's logical
    prefix: what belongs together in a task or a shard. `spare`: a reader does without it where other entries hold the same elements
    (MindSpore's redundancy removal saves equal slices on one of their ranks).
    """

    file: str
    kind: int
    unit: str
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The stored tensors of a checkpoint: their kinds, and where there is one of each.

    A thousand ranks share what they hold alike: what is said of a kind (its name, shape and blocks) is said once, and whatever follows from
    it is found out once, by the kind's number.
    """

    kinds: tuple[Laid, ...]
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Laid, str]]) -> Layout:
        """The layout of (file, laid, unit), no two of which are alike."""
        listed = tuple(tensors)
        entries = tuple([Entry(file, kind, unit) for kind, (file, _, unit) in enumerate(listed)])
        return cls(tuple([laid for _, laid, _ in listed]), entries)


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


class Found(NamedTuple):
    """A stored tensor that is there: number of its file, and where it lies in it; how it is encoded, where it is.

    The `tensor` of one that is encoded is what it counts as: with the name, the shape and the dtype of its values.
    """

    file: int
    tensor: StoredTensor
    encoded: Encoded | None = None

    @property
    def value_dtype(self) -> str:
        """What its elements are once they are read."""
        return self.tensor.dtype

    @property
    def pieces(self) -> tuple[Found, ...]:
        """The stored tensors that it is made of: itself where it is not encoded."""
        return (self,) if self.encoded is None else self.encoded.pieces

    def shaped(self, shape: tuple[int, ...]) -> Found:
        """What it is in a model where it has this shape, if its form allows that: the last columns may be padding. Itself if not."""
        if self.encoded is None or shape == self.tensor.shape:
            return self
        form = self.encoded.form
        stored = (*shape[:-2], shape[-1], shape[-2]) if form.turned and len(shape) > 1 else shape
        if stored[:-1] != form.shape[:-1] or not 0 <= form.columns - stored[-1] <= form.loose:
            return self
        tensor = self.tensor._replace(shape=shape)
        return Found(self.file, tensor, self.encoded._replace(form=replace(form, shape=stored, loose=0)))


def found_in(file: int, tensors: Iterable[StoredTensor]) -> Iterator[Found]:
    """Stored tensors as they lie in a file, by its number; very many at once."""
    return map(quick, repeat(Found), zip(repeat(file), tensors, repeat(None), strict=False))


class Encoded(NamedTuple):
    """A weight whose values are made from several stored tensors, its `pieces`: the codes first, the rest as its form has them."""

    form: Form
    pieces: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What a checkpoint says of the LoRA adapters in it, and where (`origin`, for errors); None where it says nothing.

    The factor of a module's product is alpha / r, with rslora alpha / sqrt(r). A pattern is a regular expression for the end of a module's
    name, whose r or alpha is another one (peft/tuners/lora/config.py). `pieces`: of a side that is saved in several, by its name, which
    box of it lies where.
    """

    origin: str
    r: int | None = None
    alpha: float | None = None
    use_rslora: bool | None = None
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    pieces: Mapping[str, tuple[tuple[Box, Found], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Training:
    """What training needs beside tensors to go on: the iteration it has come to, and its own words by its own names, plain values.

    `args` are those of its arguments that count on (samples), `common` what it keeps beside them: an optimizer's groups, the schedule. A
    small tensor among these is a TensorSpec; its bytes are in `data`, by its path.
    """

    iteration: int
    args: Mapping[str, Any]
    common: Mapping[str, Any]
    data: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A source checkpoint, from its headers.

    `found` holds every stored tensor by (file, name), file being empty where an Entry's is. `settings` are the dialect's own: what
    its layout needs beside the model. `notes` say what is there and is no weight. `lora`: what is said of adapters, if there are any.
    Where weights are quantised, `beside` are scales of activations, `quantised` what the configuration says of it, by where (`Release`).
    `training`: where the state of training was asked for, too.
    """

    path: str
    files: tuple[SourceFile, ...]
    found: Mapping[tuple[str, str], Found]
    facts: Facts
    settings: Any = None
    notes: tuple[Note, ...] = ()
    lora: AdapterFacts | None = None
    beside: tuple[Found, ...] = ()
    quantised: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Training | None = None


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
    `beside`: (file, name) of tensors that are of none of the layout's kinds.
    """

    files: tuple[NewFile, ...]
    skeletons: tuple[Skeleton, ...]
    side_files: tuple[SideFile, ...]
    notes: tuple[Note, ...] = ()
    encoded: Mapping[str, Written] = field(default_factory=dict)
    hashed: bool = False
    beside: tuple[tuple[str, str], ...] = ()


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


class Wants(NamedTuple):
    """Which MTP layers a target asks for: how many (None for all that there are), and whether others are carried along as they are; and
    which of the model's modules (None for all)."""

    num_mtp: int | None = None
    carry_mtp: bool = True
    modules: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Adapted:
    """What a target of adapters alone is made of: the logical A and B that the source has, by the weight's name and `.lora_A` or `.lora_B`,
    their rank, and what their product is scaled by."""

    sides: Mapping[str, LogicalTensor]
    r: int
    alpha: float
    use_rslora: bool


class Read(NamedTuple):
    """How a source is read: its dialect's settings, and its model under its own layers' numbers."""

    settings: Any
    model: Model


class Source(Protocol):
    """How a format is read. What a method does here is what a format without anything to say of it does.

    `adapters` is the format that LoRA adapters in it have already. `own_names`: tensors never have the names of their family's
    configuration, so that the format finds a text decoder inside a model of more modules. Of several formats that recognise a directory the
    one with the greatest `certainty` is meant: that whose names are its own.
    """

    name: str
    adapters: str | None = None
    own_names: bool = False
    certainty: int = 1

    @abstractmethod
    def recognises(self, root: RootedPath) -> bool:
        """Whether a directory looks like a checkpoint of this format, by the names in it."""

    def iterations(self, root: RootedPath) -> tuple[Iteration, ...]:
        """What a training run has saved in its directory so far, by number; by the names in it. Raises SourceError, StorageError."""
        last = tracked(root)
        found = sorted(numbered_folders(root).items())
        return tuple(
            Iteration(number, name, {"path": (root / name).path}, last is None or number <= last)
            for number, name in found
            if self.recognises(root / name)
        )

    def lora(self, source: Any) -> Lora | None:
        """What the job says of adapters in the source."""
        return getattr(source, "lora", None)

    def settled(self, source: Any, roots: Roots) -> SourceSpec:
        """The job's source, with the paths that follow from what lies there: all that is read is named in the job then."""
        return cast(SourceSpec, source)

    def words_dir(self, source: Any) -> str | None:
        """The directory whose configuration and tokenizer belong to the weights, where the format has such."""
        return None

    @abstractmethod
    def open(self, source: Any, roots: Roots) -> Checkpoint:
        """What lies at `source.path`, from headers alone. Raises SourceError, FormatError, PathRefused for what is not in the roots."""

    def open_training(self, source: Any, roots: Roots) -> Checkpoint:
        """What lies there with the optimizer's state, for a job that asks for it. Raises JobError where this format has none to give."""
        raise without_state("source", self.name)

    def alone(self, source: Any, roots: Roots) -> Checkpoint | None:
        """What lies at `source.path` itself, for who looks at it without what `open` needs from elsewhere; None where that is nothing."""
        return None

    def by_family_names(self, checkpoint: Checkpoint, family: Family) -> Checkpoint:
        """The checkpoint by the names of its family, where it is stored under others. Pure."""
        return checkpoint

    def wanted(self, options: Options, checkpoint: Checkpoint, wants: Wants) -> Wants:
        """Which MTP layers are converted, of those that the target wants. Raises JobError for options that this format has no part for."""
        return wants

    def vocab(self, options: Options, checkpoint: Checkpoint, spoken: Callable[[], int | None]) -> int | None:
        """The vocabulary that the configuration does not say, or says too small; None for as it says.

        `spoken` is what the target's own configuration says. Raises JobError where the job contradicts the checkpoint.
        """
        return options.vocab_size

    def experts(self, source: Any) -> Mapping[str, str]:
        """In which form the job says that experts are kept, by what names begin with: for tensors of no known model."""
        return getattr(source, "experts", None) or {}

    def shapes(self, checkpoint: Checkpoint) -> Mapping[str, tuple[int, ...]]:
        """The whole tensors' shapes by their stored names, for who asks for tensors and no model."""
        return {name: found.tensor.shape for (_, name), found in checkpoint.found.items()}

    def seen(self, checkpoint: Checkpoint, model: Model) -> Model:
        """The model with the sizes of which its configuration says too little (`Tower.unsure`), as the stored shapes have them. Pure."""
        return with_seen_sizes(model, lambda: self.shapes(checkpoint), lambda scope: (scope.rows, scope.prefix))

    def settings(self, source: Any, checkpoint: Checkpoint, model: Model) -> Any:
        """How the checkpoint is laid out; what the job states must agree. Raises JobError, SourceError."""
        return None

    def remarks(self, model: Model, settings: Any) -> tuple[Note, ...]:
        """What a user should know of how the checkpoint is read. Pure."""
        return ()

    def assumed(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The layout that is taken for a checkpoint's and where each number of it came from: how an error about it begins."""
        return ()

    @abstractmethod
    def layout(self, model: Model, settings: Any) -> Layout:
        """The stored tensors of this model. Pure. Raises LayoutError."""

    def ignores(self, key: tuple[str, str], model: Model) -> str | None:
        """Why a stored tensor that no entry claims may be left out; None if it may not."""
        return None

    def storing(self, model: Model, names: Iterable[str]) -> Model:
        """The model, told which copies of a tensor (`Model.same_as`) the checkpoint stores, of the logical tensors with these names."""
        return model


def without_state(side: str, what: str) -> JobError:
    """The error for a job that asks for state where there is no place for it."""
    return JobError(
        f'options.state is "training": optimizer state is not kept in a {side} of {what}, only from one distributed checkpoint of '
        "Megatron-LM to another (format megatron, storage torch_dist)",
        do="leave options.state out to convert the weights alone",
    )


def refuse_parts(options: Options) -> None:
    """Raises JobError for options that want a part of a model: for formats whose words would contradict a part."""
    stated = [name for name in ("num_layers", "first_k_dense_replace") if getattr(options, name) is not None]
    if stated:
        raise JobError(
            f"options.{' and options.'.join(stated)}: a part of a model can be taken from a Hugging Face source only",
            do="leave it out; or convert to Hugging Face first, and that to what you want with these options",
        )


class Target(Protocol):
    """How a format is written. What a method does here is what a format without anything to say of it does.

    `adapters`: it holds LoRA adapters, and no weights. `diffusion`: it holds diffusion models, too, or nothing else. `has_card`: it is
    published with a model card. `carries`: scales that weights were published with may lie beside it, for the way back.
    A framework with tables of its own is shown beside Hugging Face's in the families'
    pages: under its `title`, as `rows` and `prefix` have it, and as far as one of the `variants` (fields of a job, by what they are called
    in a heading) names or orders tensors otherwise.
    """

    name: str
    adapters: bool = False
    diffusion: bool = False
    has_card: bool = False
    carries: bool = False
    title: str | None = None
    variants: Mapping[str, Mapping[str, object]] = MappingProxyType({})

    def settled(self, target: Any, words_dir: str | None) -> TargetSpec:
        """The job's target, with what follows from its source: `words_dir` is where configuration and tokenizer of it lie."""
        return cast(TargetSpec, target)

    def check_training(self, target: Any) -> None:
        """Raises JobError where the optimizer's state has no place in it."""
        raise without_state("target", self.name)

    def with_state(self, settings: Any, names: Collection[str]) -> Any:
        """The settings for a target that holds the optimizer's state, too: `names` are the logical tensors that the source has. Pure."""
        return settings

    def wants(self, target: Any) -> Wants:
        """Which MTP layers it asks for."""
        return Wants()

    def likens(self, target: Any) -> bool:
        """Whether weights are to be stored as the source was published."""
        return False

    def spoken_vocab(self, target: Any, roots: Roots) -> int | None:
        """The vocabulary that the target's own configuration speaks of, where one is given."""
        return None

    def settings(self, target: Any, model: Model, adapted: Adapted | None = None) -> Any:
        """How the target shall be laid out. Raises LayoutError."""
        return adapted

    def as_found(self, job: Job, settings: Any, model: Model, read: Read, roots: Roots) -> Any:
        """The settings, with what follows from how the source, or what lies where the target's words come from, is stored."""
        return settings

    @abstractmethod
    def layout(self, model: Model, settings: Any) -> Layout:
        """The stored tensors of this model. Pure. Raises LayoutError."""

    def rows(self, scope: Scope, model: Model, settings: Any) -> Rows:
        """The rows that hold a scope's logical tensors. Pure. Raises LayoutError if one has no place in this format."""
        return ()

    def prefix(self, scope: Scope) -> str:
        """What goes before the names of a scope's rows, pipeline stages apart. Pure."""
        return ""

    @abstractmethod
    def output(self, draft: Draft[Any, Any]) -> tuple[Layout, Output]:
        """The target's files; the layout comes back with its entries' files filled in."""

    @abstractmethod
    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        """What a job would say to read what was written for `target`, at this path, as a source; None where that is no whole model.

        `architecture` are the sizes that the job had to state for its own source.
        """

    def check_words(self, root: RootedPath, side_files: Iterable[SideFile]) -> None:
        """Compares the words of a target that is no whole model with what was planned. Raises VerifyError."""
        return
