"""Which files of a Hugging Face directory hold its weights, as transformers decides it, and what else lies there.

The order is that of transformers/modeling_utils.py, `_get_resolved_checkpoint_files` (5.23): model.safetensors before its index, both
before pytorch_model.bin and its index; a configuration may name the file instead (`transformers_weights`). Of an index only the names of
its files count (utils/hub.py, `get_checkpoint_shard_files`): every tensor in them is loaded, whatever the index says of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convsvc.dialects.checkpoint import Found
from convsvc.dialects.files import index_file
from convsvc.dialects.json_files import read_json
from convsvc.dialects.recognise import WEIGHTS, describe_adapter, refuse
from convsvc.errors import ConvsvcError, SourceError
from convsvc.notes import Note
from convsvc.roots import RootedPath

# In the order in which transformers looks for them.
STEMS = (("model", "safetensors"), ("pytorch_model", "bin"))
INDEX = ".index.json"
# What a trainer saves beside the weights.
TRAINING = re.compile(r"(optimizer|scheduler|scaler|training_args|trainer_state|rng_state.*|random_states.*)(_\d+)?\.(bin|pth?|pkl)")
SHARD = re.compile(r".*-(\d+)-of-(\d+)\.\w+")
SHOWN, MAX_FOLDERS = 5, 64
EXPECTED = "a Hugging Face checkpoint with model*.safetensors or pytorch_model*.bin"


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files' names; the index that names them and its map, where there is one."""

    names: tuple[str, ...]
    index: str | None = None
    weight_map: Mapping[str, str] = field(default_factory=dict)


def choose_files(root: RootedPath, stated: object = None) -> WeightFiles:
    """The weight files that transformers would load; `stated` is the configuration's `transformers_weights`.

    Raises SourceError where there are none, saying what lies there instead.
    """
    if stated is not None:
        return _stated(root, stated)
    for stem, ending in STEMS:
        single, index = root / f"{stem}.{ending}", root / f"{stem}.{ending}{INDEX}"
        if single.is_file():
            return WeightFiles((single.name,))
        if index.exists():
            return _indexed(root, index)
        several = [name for name in root.names() if re.fullmatch(rf"{stem}-.*\.{ending}", name)]
        if several:
            return _lone(root, several, index.name)
    _check_links(root, [f"{stem}.{ending}" for stem, ending in STEMS])
    refuse(root, EXPECTED, but=("hugging_face",))
    raise SourceError(
        f"{root} has no weights",
        facts=[f"looked for {stem}*.{ending}" for stem, ending in STEMS],
        do="give the directory that holds the weights",
    )


def listed_names(root: RootedPath) -> frozenset[str] | None:
    """The tensors of a directory by its index, else by its one file's header; None where it has neither: its weights are elsewhere."""
    for stem, ending in STEMS:
        single, index = root / f"{stem}.{ending}", root / f"{stem}.{ending}{INDEX}"
        if single.is_file():
            return frozenset(tensor.name for tensor in index_file(single)[0].tensors)
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise SourceError(f"{index}: weight_map must map tensor names to file names")
            return frozenset(weight_map)
    return None


def notes_beside(root: RootedPath, chosen: WeightFiles) -> tuple[Note, ...]:
    """Notes for the weights in the directory that are not read, and for an adapter there."""
    names = root.names()
    beside = [name for name in names if WEIGHTS.fullmatch(name) and name not in chosen.names]
    adapters = [name for name in names if re.fullmatch(r"adapter_config\.json|adapter_model.*", name)]
    training = [name for name in beside if TRAINING.fullmatch(name)]
    others = [name for name in beside if name not in adapters and name not in training]
    indexes = [name for name in names if name.endswith(INDEX) and name != chosen.index]
    notes = []
    if others or indexes:
        read = f"{chosen.index} and what it names" if chosen.index else chosen.names[0]
        notes.append(Note("ignored", f"weights beside {read}, which is what transformers loads: {_short([*others, *indexes])}"))
    if training:
        notes.append(Note("ignored", f"training state, not weights: {_short(training)}"))
    if adapters:
        notes.append(_adapter_note(root, adapters))
    folders = [said for name in names[:MAX_FOLDERS] if (said := _weights_in(root / name))]
    return (*notes, *([Note("ignored", f"weights in directories beside: {_short(folders)}")] if folders else []))


def notes_of_index(chosen: WeightFiles, found: Mapping[tuple[str, str], Found]) -> tuple[Note, ...]:
    """What an index says of its tensors that the files do not, in which they were `found`. The files are right, as for transformers."""
    named, names = chosen.weight_map, chosen.names
    if chosen.index is None:
        return ()
    if len(named) == len(found) and [named.get(name) for _, name in found] == [names[each.file] for each in found.values()]:
        return ()
    where = {key[1]: names[each.file] for key, each in found.items()}
    faults = (
        ("in no file, though {index} lists them: {names}", [key for key in named if key not in where]),
        ("in a file of {index}, which does not list them; read, as transformers does: {names}", [key for key in where if key not in named]),
        (
            "in another file than {index} says; read where they are: {names}",
            [key for key, file in named.items() if where.get(key, file) != file],
        ),
    )
    return tuple(
        Note("ignored" if at == 0 else "advice", f"{len(names)} tensor(s) {text.format(index=chosen.index, names=_short(names))}")
        for at, (text, names) in enumerate(faults)
        if names
    )


def _stated(root: RootedPath, stated: object) -> WeightFiles:
    if not isinstance(stated, str) or _is_outside(stated) or not stated.endswith((".safetensors", ".safetensors" + INDEX)):
        raise SourceError(
            f"{root}/config.json: transformers_weights is {str(stated)[:200]!r}; it must name a safetensors file or index in its directory"
        )
    path = root / stated
    if not path.is_file():
        raise SourceError(f"{path} does not exist, and config.json names it in transformers_weights", do="fetch it")
    return _indexed(root, path) if stated.endswith(INDEX) else WeightFiles((stated,))


def _indexed(root: RootedPath, index: RootedPath) -> WeightFiles:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(value, str) for value in weight_map.values()):
        raise SourceError(f"{index}: weight_map must map tensor names to file names")
    names = sorted(set(weight_map.values()))
    if not names:
        raise SourceError(f"{index} names no weights: its weight_map is empty", do="fetch or write the index again")
    outside = [each for each in names if _is_outside(each)]
    if outside:
        raise SourceError(f"{index} names files outside its directory: {', '.join(map(ascii, outside[:3]))}")
    _check_links(root, names)
    missing = [each for each in names if not (root / each).exists()]
    if missing:
        raise SourceError(
            f"{index.name} names {len(missing)} file(s) that are not in {root}: {_short(missing)}",
            do="fetch what is missing",
        )
    return WeightFiles(tuple(names), index.name, weight_map)


def _lone(root: RootedPath, several: Sequence[str], index: str) -> WeightFiles:
    """A single file that is numbered as a shard, without an index."""
    if len(several) > 1:
        raise SourceError(
            f"{root} has {len(several)} files ({_short(several)}) and no {index}", do=f"fetch {index}: it says what belongs together"
        )
    shard = SHARD.fullmatch(several[0])
    if shard and int(shard[2]) > 1:
        raise SourceError(
            f"{root} has one of {int(shard[2])} weight files, {several[0]}, and no {index}", do="fetch the other files and the index"
        )
    return WeightFiles((several[0],))


def _check_links(root: RootedPath, names: Iterable[str]) -> None:
    """Raises SourceError for names that are there and lead nowhere."""
    there = set(root.names())
    dangling = [each for each in names if each in there and not (root / each).exists()]
    if dangling:
        raise SourceError(
            f"{len(dangling)} weight file(s) of {root} are links to nothing: {_short(dangling)}",
            do="fetch them again: what they lead to (in a hub cache: the file in blobs/) is gone",
        )


def _is_outside(name: str) -> bool:
    return "/" in name or "\0" in name or name in ("", ".", "..")


def _adapter_note(root: RootedPath, names: Sequence[str]) -> Note:
    try:
        about = describe_adapter(read_json(root / "adapter_config.json")) if "adapter_config.json" in names else ""
    except ConvsvcError:
        about = ""
    return Note(
        "ignored",
        f"a PEFT adapter beside the weights{about}: {_short(names)}. The weights are read without it; transformers, where peft is "
        "installed, would load the adapter's base model and the adapter instead",
    )


def _weights_in(folder: RootedPath) -> str | None:
    """How many weight files a directory holds, in words; None for none, and for what is no directory."""
    try:
        if folder.name.startswith(".") or not folder.is_dir():
            return None
        count = sum(WEIGHTS.fullmatch(name) is not None for name in folder.names())
    except ConvsvcError:
        return None
    return f"{folder.name}/ ({count})" if count else None


def _short(names: Sequence[str]) -> str:
    return ", ".join(map(_printable, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _printable(name: str) -> str:
    """A name as it is, or with escapes: a file may be called anything."""
    return name[:200] if name.isprintable() else ascii(name[:200])
