"""Opening what training keeps beside the weights of a distributed checkpoint: which state of which weight, and the words that go with it.

Words are the optimizer's param_groups with step and learning rate, the schedule, the samples consumed
(megatron/training/checkpointing.py, generate_state_dict). Random state is of one layout and is left to training, which goes on without
where the args say that none was saved.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from convsvc.dialects.checkpoint import Training
from convsvc.dialects.megatron.fsdp_state import MAIN
from convsvc.dialects.megatron.moments import State, check_kinds, parse_stored
from convsvc.dialects.megatron.state import BUCKETS, is_state
from convsvc.errors import SourceError
from convsvc.formats.base import Global, Inert, StoredTensor, TensorSpec
from convsvc.formats.dcp.records import Chunked, Metadata
from convsvc.formats.regular_file import open_regular
from convsvc.notes import Note
from convsvc.roots import RootedPath

SHARDING, FULLY, MODEL_SPACE = "param_state_sharding_type", "fully_reshardable", "fully_sharded_model_space"
CONTENT = {"distrib_optim_sharding_type": FULLY, "distrib_optim_fully_reshardable_mem_efficient": False}
# What that calls the main weights, and other optimizers than the distributed one do.
UPGRADED = {"fp32_param": "param"}
KEPT = ("optimizer", "opt_param_scheduler", "num_floating_point_operations_so_far")
COUNTING = ("consumed_train_samples", "consumed_valid_samples", "skipped_train_samples")
PLAIN = (bool, int, float, str, type(None))
# A scale, a step: what is larger is no word.
MAX_BYTES = 1 << 20
SHOWN = 12
WEIGHTS_ALONE = "leave options.state out to convert the weights alone"


@dataclass(frozen=True, slots=True)
class Common:
    """What was saved beside tensors: the tree, where it was read from for people, and the file and byte its tensors are counted from."""

    tree: Mapping[str, Any]
    origin: str
    file: RootedPath | None = None
    first: int = 0


@dataclass(frozen=True, slots=True)
class States:
    """Entries of `.metadata` that are state, by their full names, and which each is; what else training needs, and what to say of it.

    `words` are further entries that are read. Of Megatron-FSDP `wrappers` stand before a weight's key, and main weights in their place.
    """

    tensors: Mapping[str, Chunked] = field(default_factory=dict)
    names: Mapping[str, State] = field(default_factory=dict)
    training: Training | None = None
    notes: tuple[Note, ...] = ()
    words: frozenset[str] = frozenset()
    wrappers: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of state that there are."""
        main = {MAIN} if self.wrappers else set()
        return tuple(sorted({state.kind for state in self.names.values()} | main))


def find_states(folder: RootedPath, metadata: Metadata, prefix: str, common: Common) -> States:
    """The optimizer's state in a checkpoint whose weights' keys begin with `prefix`.

    Raises SourceError where there is none, or none that another layout can load; where it lacks words, or parts.
    """
    _check_form(folder, [*metadata.tensors, *metadata.objects])
    optimizers = list(_optimizers(folder, common))
    upgrades = _sharding(folder, optimizers) == MODEL_SPACE
    names: dict[str, State] = {}
    for name in metadata.tensors:
        state = parse_stored(name.removeprefix(prefix))
        if state is not None:
            kind = UPGRADED.get(state.kind, state.kind) if upgrades else state.kind
            names[name] = State(kind, state.of.removeprefix(prefix))
    if not names:
        raise SourceError(f"{folder} has no optimizer state", do=WEIGHTS_ALONE)
    if len(set(names.values())) < len(names):
        raise SourceError(f"{folder}: several optimizers have state of one weight", do=WEIGHTS_ALONE)
    check_kinds(str(folder), names.values())
    weights = {name.removeprefix(prefix) for name in metadata.tensors if not is_state(name.removeprefix(prefix))}
    notes = tuple(_notes(names.values(), weights, upgrades, len(optimizers)))
    return States({name: metadata.tensors[name] for name in names}, names, _training(common, upgrades), notes)


def _check_form(folder: RootedPath, names: Iterable[str]) -> None:
    for name in names:
        if BUCKETS.names.match(name):
            raise SourceError(
                f"{folder} has optimizer state in buckets of one layout (dp_reshardable), which no other layout loads",
                do="load it at its own sizes and save it with --dist-ckpt-optim-fully-reshardable; or leave options.state out to convert "
                "the weights alone",
            )


def _optimizers(folder: RootedPath, common: Common) -> Iterator[Mapping[str, Any]]:
    """The words of each optimizer: of a chain they are numbered."""
    words = common.tree.get("optimizer")
    chain = list(words.values()) if isinstance(words, Mapping) and words and all(type(key) is int for key in words) else [words]
    for each in chain:
        if not isinstance(each, Mapping):
            raise SourceError(
                f"{folder} has no words of an optimizer beside its state: groups, steps, learning rates",
                facts=[f"looked for optimizer in {common.origin or 'common.pt, which is not there'}"],
                do="give a checkpoint that training saved with its optimizer; or " + WEIGHTS_ALONE,
            )
        yield each


def _sharding(folder: RootedPath, optimizers: list[Mapping[str, Any]]) -> str | None:
    """How a distributed optimizer saved; None for one that is not distributed."""
    found = {each.get(SHARDING) for each in optimizers if each}
    if len(found) > 1 or not found <= {FULLY, MODEL_SPACE, None}:
        raise SourceError(
            f"{folder}: an optimizer whose {SHARDING} is {' and '.join(sorted(map(str, found)))}, which is not carried",
            do="save it with --dist-ckpt-optim-fully-reshardable; or " + WEIGHTS_ALONE,
        )
    return found.pop() if found else None


def _training(common: Common, upgrades: bool) -> Training:
    tree, gathered = common.tree, Gathered(common)
    kept = {name: gathered.plain(tree[name], name) for name in KEPT if name in tree}
    kept["optimizer"] = _upgraded(kept["optimizer"]) if upgrades else kept["optimizer"]
    content = dict(CONTENT) if FULLY in _said(kept["optimizer"]) else {}
    iteration = tree.get("iteration")
    common_words = {**kept, "content_metadata": content}
    return Training(iteration if type(iteration) is int else 0, counted(tree), common_words, gathered.data)


def counted(tree: Mapping[str, Any]) -> dict[str, int]:
    """Of the saved args those that count on, and the vocabulary."""
    args = tree.get("args")
    saved = vars(args) if isinstance(args, Namespace) else args if isinstance(args, Mapping) else {}
    return {name: saved[name] for name in (*COUNTING, "vocab_size") if type(saved.get(name)) is int}


def _said(optimizer: Mapping[Any, Any]) -> set[Any]:
    words = optimizer.values() if all(type(key) is int for key in optimizer) else [optimizer]
    return {each.get(SHARDING) for each in words}


def _upgraded(optimizer: Mapping[Any, Any]) -> dict[Any, Any]:
    if optimizer and all(type(key) is int for key in optimizer):
        return {key: _upgraded(each) for key, each in optimizer.items()}
    return {**optimizer, SHARDING: FULLY} if optimizer else {}


class Gathered:
    """Words as they are written again; the bytes of the tensors in them."""

    def __init__(self, common: Common) -> None:
        self.common = common
        self.data: dict[str, bytes] = {}

    def plain(self, value: Any, path: str) -> Any:
        """The value of dicts, lists, numbers and text. Raises SourceError for anything else: it would have to be run."""
        if isinstance(value, Mapping):
            return {key: self.plain(each, f"{path}/{key}") for key, each in value.items()}
        if isinstance(value, StoredTensor):
            return self._tensor(value, path)
        if isinstance(value, list | tuple):
            return type(value)([self.plain(each, f"{path}/{number}") for number, each in enumerate(value)])
        if type(value) in PLAIN or (type(value) is Global and value.module == "torch"):
            return value
        what = f"{value.module}.{value.name}" if isinstance(value, Inert) else type(value).__name__
        raise SourceError(f"{self.common.origin}: {path} is a {what[:200]}, which is not carried", do=WEIGHTS_ALONE)

    def _tensor(self, tensor: StoredTensor, path: str) -> TensorSpec:
        if self.common.file is None or tensor.size_bytes + sum(map(len, self.data.values())) > MAX_BYTES:
            raise SourceError(f"{self.common.origin}: {path} is a tensor of {tensor.size_bytes} bytes, not a word", do=WEIGHTS_ALONE)
        with open_regular(self.common.file) as file:
            self.data[path] = file.read(self.common.first + tensor.file_offset, tensor.size_bytes, path)
        return TensorSpec(path, tensor.dtype, tensor.shape)


def _notes(states: Iterable[State], weights: set[str], upgrades: bool, optimizers: int) -> Iterator[Note]:
    yield from stateless(weights - {state.of for state in states})
    if upgrades:
        yield Note("changed", f"the optimizer state is {MODEL_SPACE}, which core from 0.16 on does not load: it is written as {FULLY}")
    if optimizers > 1:  # megatron/core/optimizer/optimizer.py, ChainedOptimizer.load_state_dict
        yield Note(
            "advice",
            f"there are {optimizers} optimizers' words, as where experts are spread: of a torch_dist Megatron goes on with as many, at an "
            "expert parallel size above 1",
        )


def stateless(weights: Iterable[str]) -> Iterator[Note]:
    """A note on weights that have no state, if there are any."""
    without = sorted(weights)
    if without:
        more = f" and {len(without) - SHOWN} more" if len(without) > SHOWN else ""
        yield Note("advice", f"no optimizer state, as of buffers and what is frozen: {', '.join(without[:SHOWN])}{more}")
