"""Opening a distributed checkpoint of Megatron core: `.metadata`, the saved args, and where every chunk of a weight lies. Headers only."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.dialects.cuts import Cut
from convsvc.dialects.dcp.checkpoint import whole_pieces
from convsvc.dialects.dcp.pieces import find_pieces
from convsvc.dialects.files import check_directory
from convsvc.dialects.iterations import MAX_TRACKER_BYTES, TRACKER
from convsvc.dialects.json_files import read_json
from convsvc.dialects.mcore.progress import reached
from convsvc.dialects.megatron.fsdp_training import find_fsdp_states
from convsvc.dialects.megatron.integrity import check_integrity
from convsvc.dialects.megatron.job import MegatronSource
from convsvc.dialects.megatron.layout import FSDP
from convsvc.dialects.megatron.norms import read_norms
from convsvc.dialects.megatron.state import FSDP_KEY, by_old_name, describe, has_state_of_fsdp, is_of_fsdp, is_of_fsdp_files, is_state
from convsvc.dialects.megatron.training import Common, States, find_states
from convsvc.dialects.recognise import refuse
from convsvc.errors import JobError, SourceError
from convsvc.formats import torch_zip
from convsvc.formats.dcp.items import read_object
from convsvc.formats.dcp.metadata import read_metadata
from convsvc.formats.dcp.records import METADATA, Chunked, Metadata
from convsvc.formats.regular_file import open_regular
from convsvc.models.facts import Facts
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import stated_sizes

CONFIG, MARK, COMMON = "config.json", "metadata.json", "common.pt"
# What core 0.19 and later save in the place of common.pt.
COMMON_OBJECT = "common_state/shard_0_1"
# What Megatron-FSDP saves, which has neither.
ARGS_OBJECT = "args"
WHAT = "a distributed checkpoint of Megatron core"
WORDS = "embedding.word_embeddings.weight"
# What stands before a text decoder's keys inside a model of several modules (core/models/multimodal/llava_model.py; Megatron-Bridge).
TEXT = "language_model."
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found out beside the weights: the whole tensors' shapes, what of each lies where, and what the saved args say; whether
    Megatron-FSDP saved it, and which kinds of an optimizer's state there are, where they were asked for, and how its names begin."""

    shapes: Mapping[str, tuple[int, ...]]
    cuts: Mapping[str, tuple[Cut, ...]]
    args: Facts
    fsdp: bool = False
    kinds: tuple[str, ...] = ()
    wrappers: str = ""


def place_of(root: RootedPath) -> RootedPath | None:
    """The directory that a job means by another that training saved to, as the tracker says; None where there is none such."""
    if not root.is_dir():
        return None
    if _is_one(root):
        return root
    if not (root / TRACKER).is_file():
        return None
    folder = root / _folder(_tracked(root / TRACKER))
    return folder if folder.is_dir() and _is_one(folder) else None


def _is_one(folder: RootedPath) -> bool:
    """By the names in it; Megatron-FSDP's, which has no file of its own, by those of its weights."""
    names = set(folder.names())
    return METADATA in names and (MARK in names or is_of_fsdp_files(folder / METADATA))


def open_checkpoint(source: MegatronSource, roots: Roots, *, training: bool = False) -> Checkpoint:
    """The checkpoint at `source.path`; with what training needs to go on, if that is asked for.

    Raises SourceError, FormatError, HostileFile, JobError; PathRefused.
    """
    root = RootedPath(source.path, roots)
    check_directory(root)
    folder = _iteration(root, source.iteration)
    _check_complete(folder)
    checked = check_integrity(folder, all_files=source.verify_integrity)
    metadata = read_metadata(folder / METADATA)
    prefix = _prefix(metadata.tensors)
    common = _common(folder, metadata)
    states = _states(folder, metadata, prefix, common) if training else States()
    weights, left = _weights(folder, metadata, prefix, states)
    weights, left = _of_text(folder, weights, prefix, left, asked=source.modules is not None)
    fsdp = MARK not in folder.names() and is_of_fsdp(weights)
    _check_storage(source, folder, fsdp, weights)
    pieces = whole_pieces(folder, find_pieces(folder, {**weights, **states.tensors}))
    args = _saved_args(folder, common)
    facts = (_configured(source, roots) or args).stating(stated_sizes(source.architecture))
    names = {name: _key(name, prefix, weights) for name in weights} | {name: state.stored for name, state in states.names.items()}
    shapes = {names[name]: each.shape for name, each in pieces.tensors.items()}
    opened = Opened(shapes, {names[name]: cuts for name, cuts in pieces.cuts.items()}, args, fsdp, states.kinds, states.wrappers)
    found: Mapping[tuple[str, str], Found] = {(file, names[name]): each for (file, name), each in pieces.found.items()}
    notes = (*checked, *_unfinished(folder, fsdp), *left, *states.notes)
    if not training:  # which goes on with all values as they are stored
        found, changed = read_norms(found)
        notes = (*notes, *changed)
    iteration = reached(common.tree, folder.name, with_state=True)
    return Checkpoint(str(folder), pieces.files, found, facts, opened, notes, training=states.training, iteration=iteration)


def _folder(said: str) -> str:
    return f"iter_{int(said):07d}" if re.fullmatch(r"[0-9]{1,12}", said) else said if said == "release" else ""


def _tracked(tracker: RootedPath) -> str:
    with open_regular(tracker, may_be_empty=True) as file:
        return file.read(0, min(file.size_bytes, MAX_TRACKER_BYTES), "the iteration").decode("utf-8", errors="replace").strip()


def _iteration(root: RootedPath, stated: str | None) -> RootedPath:
    """The directory with `.metadata`: the given one, or the iteration's in it."""
    if stated is None and any(name == METADATA or name.endswith(".distcp") for name in root.names()):
        return root
    tracker = root / TRACKER
    if stated is None and not tracker.is_file():
        refuse(root, WHAT, but=("torch_dist", "checkpoints"))
        raise SourceError(
            f"{root} has no {METADATA} and no {TRACKER}", do="give the directory that training saved to, or that of an iteration"
        )
    said = stated or _tracked(tracker)
    name = _folder(said)
    if not name:
        raise SourceError(f"{tracker} says {said[:80]!r}; it must be a number or 'release'")
    if not (root / name).is_dir():
        raise SourceError(f"{root / name} does not exist, though {'source.iteration' if stated else tracker} says {said}")
    return root / name


def _check_complete(folder: RootedPath) -> None:
    names = set(folder.names())
    if METADATA in names:
        return
    if any(name.endswith(".distcp") for name in names):
        raise SourceError(
            f"{folder} has .distcp files and no {METADATA}, which is written last: it was not saved to its end",
            do=f"fetch {METADATA}, or give an iteration that was saved whole",
        )
    refuse(folder, WHAT, but=("torch_dist",))
    raise SourceError(f"{folder} has no {METADATA}", do="give the directory that training saved to")


def _unfinished(folder: RootedPath, fsdp: bool) -> list[Note]:
    """A note where what torch_dist has last is not there: all weights may be, as `.metadata` names them, but Megatron loads none."""
    if fsdp or MARK in folder.names():
        return []
    text = f"{folder} has no {MARK}, which training writes last, and without which Megatron loads nothing: what {METADATA} names is read"
    return [Note("advice", text)]


def _prefix(names: Iterable[str]) -> str:
    """What stands before all weights' keys: NeMo saves `module.`, models of several modules `language_model.`."""
    return next((name.removesuffix(WORDS) for name in names if name.endswith(WORDS) and not is_state(name)), "")


def _key(name: str, prefix: str, names: Container[str]) -> str:
    """A weight's key, with an MTP layer's inner layer by the name that checkpoints have of it.

    Core renamed the module; torch_dist goes on with the old name, and so does fsdp_dtensor after core 0.19, which saved the module's.
    """
    renamed = by_old_name(name)
    return (name if renamed in names else renamed).removeprefix(prefix)


def _weights(folder: RootedPath, metadata: Metadata, prefix: str, states: States) -> tuple[dict[str, Chunked], list[Note]]:
    """The weights by their keys, and notes on what is left out, by kinds."""
    short = {name: name.removeprefix(prefix) for name in chain(metadata.tensors, metadata.objects)}
    weights = {name: each for name, each in metadata.tensors.items() if not is_state(short[name])}
    notes = describe(
        (short[name] for name in short if name not in weights and name not in states.names and name not in states.words), METADATA
    )
    if not weights:
        raise SourceError(f"{folder} holds no weights", facts=[note.text for note in notes], do="give the directory the model was saved to")
    return weights, notes


def _states(folder: RootedPath, metadata: Metadata, prefix: str, common: Common) -> States:
    find = find_fsdp_states if has_state_of_fsdp(chain(metadata.tensors, metadata.objects)) else find_states
    return find(folder, metadata, prefix, common)


def _of_text(
    folder: RootedPath, weights: dict[str, Chunked], prefix: str, notes: list[Note], *, asked: bool
) -> tuple[dict[str, Chunked], list[Note]]:
    """Of a model of several modules the text decoder's weights, and a note for each other module. Raises SourceError where nobody asks."""
    if not prefix.endswith(TEXT):
        return weights, notes
    outside = [name for name in weights if not name.startswith(prefix)]
    modules = Counter(name.removeprefix(prefix.removesuffix(TEXT)).split(".")[0] for name in outside)
    if outside and not asked:
        raise SourceError(
            f"{folder} holds {', '.join(modules)} beside a text decoder",
            facts=[f"{count} weights of {module}" for module, count in modules.items()][:SHOWN],
            do='state source.modules ["text_decoder"] (verify: --modules text_decoder): it is read, and the others are left out',
        )
    left = [
        Note("ignored", f"{count} weights of {module} are left out: text_decoder alone is asked for") for module, count in modules.items()
    ]
    return {name: each for name, each in weights.items() if name.startswith(prefix)}, [*notes, *left]


def _check_storage(source: MegatronSource, folder: RootedPath, fsdp: bool, names: Iterable[str]) -> None:
    """Raises SourceError where a job says another storage than there is, or virtual stages are saved by themselves.

    Keys tell torch_dist and fsdp_dtensor apart, so that the first, which is meant where nothing is said, stands for either.
    """
    if source.storage == FSDP and not fsdp:
        raise SourceError(f"{folder} was not saved by Megatron-FSDP", do='leave storage out, or state "torch_dist"')
    models = {match[1] for name in names if (match := FSDP_KEY.match(name))} if fsdp else set()
    if len(models) > 1:
        raise SourceError(
            f"{folder} holds {len(models)} models (model0, model1 ...), virtual pipeline stages which number their layers from 0",
            do="save it without virtual pipeline stages: which layers are whose is not in the checkpoint",
        )


def _saved_args(folder: RootedPath, common: Common) -> Facts:
    """The args that were saved with the weights; none where nobody saved them."""
    args = common.tree.get("args")
    values: Mapping[str, Any] = vars(args) if isinstance(args, Namespace) else args if isinstance(args, Mapping) else {}
    if not values:
        return Facts({}, f"{folder}, which has no saved args (state source.config_dir),")
    return Facts(values, f"the args saved in {common.origin}")


def _common(folder: RootedPath, metadata: Metadata) -> Common:
    if (folder / COMMON).is_file():
        return Common(torch_zip.read_index(folder / COMMON).tree, str(folder / COMMON), folder / COMMON)
    if (item := metadata.places.get(ARGS_OBJECT)) is not None:
        return Common({"args": read_object(folder / item.file, item, ARGS_OBJECT)}, str(folder))
    item = metadata.places.get(COMMON_OBJECT)
    if item is None:
        return Common({}, "")
    found = read_object(folder / item.file, item, COMMON_OBJECT)
    found = found[0] if isinstance(found, list) and len(found) == 1 else found
    return Common(found, str(folder), folder / item.file, item.file_offset) if isinstance(found, Mapping) else Common({}, "")


def _configured(source: MegatronSource, roots: Roots) -> Facts | None:
    """What the job's configuration says, where it names one."""
    if source.config_dir is None:
        return None
    path = RootedPath(source.config_dir, roots) / CONFIG
    if not path.is_file():
        raise JobError(f"source.config_dir: {source.config_dir} has no {CONFIG}")
    return Facts(read_json(path), str(path))
