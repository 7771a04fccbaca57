"""What a dialect is: how one framework names and lays out the logical tensors, and its directories. Two protocols: Source and Target.

Both answer with the same declarations: which stored tensors a checkpoint of this model must hold (to read it), and which one shall be
written. Reading opens headers only. Whatever general code wants to know of a format is a question here, never a test of its name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.iterations import Iteration, numbered_folders, tracked
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.errors import JobError
from convsvc.models.family import Family
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.models.unsure import with_seen_sizes
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Job, Lora, Options
from convsvc.spec.places import SourceSpec, TargetSpec
from convsvc.tensors.blocks import LogicalTensor


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


class Detected(NamedTuple):
    """What is stated of a source whose format nobody said: fields of a job's, and notes on what else it could be."""

    stated: Mapping[str, str] = MappingProxyType({})
    notes: tuple[Note, ...] = ()


class Read(NamedTuple):
    """How a source is read: its dialect's settings, and its model under its own layers' numbers; how far its training has come."""

    settings: Any
    model: Model
    iteration: int | None = None


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

    def detected(self, root: RootedPath) -> Detected:
        """What a job would say of a directory that is recognised, beside format and path, and what a user should know of the choice."""
        return Detected()

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

    def check_training(self, source: Any, roots: Roots) -> None:
        """Raises JobError that names what lies there of the optimizer's state and cannot be kept, whatever the target is."""
        return

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


def without_state(side: str, what: str, lost: Iterable[str] = (), do: str | None = None) -> JobError:
    """The error for a job that asks for state where there is no place for it; `lost` is what there is."""
    return JobError(
        f'options.state is "training": optimizer state is not kept in a {side} of {what}, only from one distributed checkpoint of '
        "Megatron-LM to another (format megatron, storage torch_dist or fsdp_dtensor)",
        facts=[f"would be lost: {each}" for each in sorted(lost)],
        do=do or "leave options.state out to convert the weights alone",
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
    `of_modules`: it holds models with modules beside the text decoder, and no text models.
    A framework with tables of its own is shown beside Hugging Face's in the families'
    pages: under its `title`, as `rows` and `prefix` have it, and as far as one of the `variants` (fields of a job, by what they are called
    in a heading) names or orders tensors otherwise.
    """

    name: str
    adapters: bool = False
    diffusion: bool = False
    has_card: bool = False
    carries: bool = False
    of_modules: bool = False
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

    def stand_ins(self, settings: Any, names: Collection[str]) -> Mapping[str, str]:
        """Of logical tensors that such a target has and the source has not those of its `names` that stand in: main weights. Pure."""
        return {}

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

    def prefix(self, scope: Scope, model: Model) -> str:
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
