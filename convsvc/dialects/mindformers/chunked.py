"""Checkpoints of newer training: `iteration_N` directories with a metadata.json that says which box of a tensor lies in which file.

As mindformers writes them (checkpoint/metadata.py save_metadata, checkpoint/utils.py of master, December 2025):

    latest_checkpointed_iteration.txt     the last iteration that was saved whole
    iteration_00000010/metadata.json      {"state_dict_metadata": {NAME: {"global_shape", "chunk": [{"global_offset", "local_shape"}]}},
                                           "storage_data": {"('NAME', (OFFSETS))": [{"file_name", "storage_rank", "rank_group"}]}}
    iteration_00000010/common.json        counters of training
    iteration_00000010/PREFIX-model-0000000-0000008.safetensors, PREFIX-opt-...   a rank's weights, its optimizer state

No strategy file is needed, and none is written. Every rank that has a box is named for it, also where redundancy was removed on saving.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from convsvc.dialects.checkpoint import Found, SourceFile
from convsvc.dialects.cuts import Cut
from convsvc.dialects.files import index_files
from convsvc.dialects.json_files import read_json
from convsvc.dialects.mindformers.distributed import Distributed, holds_all, shown
from convsvc.dialects.mindformers.whole import Key
from convsvc.errors import SourceError
from convsvc.formats.regular_file import open_regular
from convsvc.notes import Note
from convsvc.roots import RootedPath

METADATA, TRACKER = "metadata.json", "latest_checkpointed_iteration.txt"
ITERATION = re.compile(r"iteration_(\d{1,12})")
RANK_FILE = re.compile(r"(?:.*-)?(model|opt)-\d{7}-\d{7}\.safetensors")
# ('decoder.final_layernorm.weight', (16,)): a text in Python's quotes and a tuple of whole numbers, and nothing else.
SHARD = re.compile(r"""\((?:'([^'\\]*)'|"([^"\\]*)"), \((\d+(?:, \d+)*,?|)\)\)""")
_AGAIN = "fetch the checkpoint again, or choose another iteration by source.file_suffix"

Corner = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor, `starts:stops` of the whole, and the files that should hold it."""

    name: str
    starts: Corner
    stops: Corner
    files: tuple[str, ...]

    @property
    def shape(self) -> Corner:
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(f'{start}:{stop}' for start, stop in zip(self.starts, self.stops, strict=True))}]"


def is_chunked(folder: RootedPath) -> bool:
    """Whether a directory is one iteration: its metadata.json is beside files that are named as a rank's (Megatron's is not)."""
    names = folder.names() if folder.is_dir() else []
    return METADATA in names and any(RANK_FILE.fullmatch(name) for name in names)


def iterations(root: RootedPath) -> dict[int, str]:
    """The iterations that are there, by their numbers."""
    return {int(found[1]): name for name in root.names() if (found := ITERATION.fullmatch(name))} if root.is_dir() else {}


def choose_iteration(root: RootedPath, suffix: str | None) -> tuple[RootedPath, list[Note]]:
    """The directory of the iteration that the job says (its number, or `iteration_N`), that the tracker names, or the newest.

    Raises SourceError if it is not there.
    """
    there = iterations(root)
    have = f"there are {', '.join(map(str, sorted(there)))}"
    if suffix is not None:
        digits = suffix.removeprefix("iteration_")
        if not digits.isdecimal() or int(digits) not in there:
            raise SourceError(f"{root} has no iteration {suffix}", facts=[have], do="set source.file_suffix to one of them")
        return root / there[int(digits)], []
    last = _tracked(root)
    if last is None:
        return root / there[max(there)], []
    if last not in there:
        raise SourceError(f"{root / TRACKER} names iteration {last}, which is not there", facts=[have], do=_AGAIN)
    later = [number for number in sorted(there) if number > last]
    said = f"{TRACKER} names iteration {last}; left out are later ones, which training may not have finished: {', '.join(map(str, later))}"
    return root / there[last], [Note("ignored", said)] if later else []


def _tracked(root: RootedPath) -> int | None:
    if not (root / TRACKER).is_file():
        return None
    with open_regular(root / TRACKER) as file:
        text = file.read(0, min(file.size_bytes, 64), "the iteration").decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise SourceError(f"{root / TRACKER} holds {ascii(text)[:40]}, not the number of an iteration", do="state source.file_suffix")
    return int(text)


def find_chunked(folder: RootedPath, has_redundancy: bool | None = None) -> Distributed:
    """The weights of one iteration. Raises SourceError where metadata.json and the files contradict each other or parts are in no file."""
    shapes, chunks = read_metadata(folder)
    there = {name for name in folder.names() if RANK_FILE.fullmatch(name)}
    named = {file for chunk in chunks for file in chunk.files}
    names = sorted(named & there)
    files: list[SourceFile] = []
    found: dict[Key, Found] = {}
    whole: set[str] = set()
    for number, (name, (index, file)) in enumerate(zip(names, index_files([folder / name for name in names]), strict=True)):
        files.append(file)
        found |= {(name, tensor.name): Found(number, tensor) for tensor in index.tensors}
        if holds_all(index.metadata, has_redundancy):
            whole.add(name)
    _check_files(folder, chunks, found, whole)
    _check_whole(folder, shapes, chunks, found)
    cuts: dict[str, list[Cut]] = {}
    for chunk in chunks:
        held = [Cut(file, chunk.starts, chunk.stops) for file in chunk.files if (file, chunk.name) in found]
        cuts.setdefault(chunk.name, []).extend(held)
    return Distributed(files, found, _notes(folder, named, there), shapes, {name: tuple(held) for name, held in cuts.items()})


def read_metadata(folder: RootedPath) -> tuple[dict[str, Corner], list[Chunk]]:
    """The whole tensors' shapes and their chunks, without what only files of the optimizer hold.

    Raises SourceError that names the field and what was expected of it.
    """
    path = folder / METADATA
    said = read_json(path)
    state, storage = (_mapping(path, said.get(field), field) for field in ("state_dict_metadata", "storage_data"))
    files = _files_of(path, storage)
    shapes: dict[str, Corner] = {}
    chunks: list[Chunk] = []
    for name, value in state.items():
        shape, boxes = _shape_and_boxes(path, name, _mapping(path, value, name))
        held = [Chunk(name, starts, stops, tuple(files.get((name, starts), ()))) for starts, stops in boxes]
        if any(chunk.files for chunk in held) and all(is_optimizers(file) for chunk in held for file in chunk.files):
            continue
        shapes[name] = shape
        chunks += held
    return shapes, chunks


def is_optimizers(file: str) -> bool:
    """
    >>> is_optimizers("qwen3-opt-0000000-0000002.safetensors"), is_optimizers("model-0000000-0000002.safetensors")
    (True, False)
    """
    return (found := RANK_FILE.fullmatch(file)) is not None and found[1] == "opt"


def parse_shard(text: str) -> tuple[str, Corner] | None:
    """A tensor's name and a box's first corner from a key of storage_data; None for anything else. It is read, not evaluated.

    >>> parse_shard("('w', (0, 16))"), parse_shard("('b', (4,))"), parse_shard("('s', ())"), parse_shard("__import__('os')")
    (('w', (0, 16)), ('b', (4,)), ('s', ()), None)
    """
    found = SHARD.fullmatch(text)
    if found is None:
        return None
    name = found[1] if found[1] is not None else found[2]
    return name, tuple(int(number) for number in found[3].replace(",", " ").split())


def _files_of(path: RootedPath, storage: Mapping[str, Any]) -> dict[tuple[str, Corner], list[str]]:
    files: dict[tuple[str, Corner], list[str]] = {}
    for text, places in storage.items():
        shard = parse_shard(text)
        if shard is None or not isinstance(places, list):
            raise _wrong(path, f"storage_data[{text[:120]!r}]", "a key ('name', (offsets)) with a list of files")
        files[shard] = list(dict.fromkeys(_file_name(path, shard[0], place) for place in places))
    return files


def _file_name(path: RootedPath, tensor: str, place: object) -> str:
    name = place.get("file_name") if isinstance(place, dict) else None
    if not isinstance(name, str) or not RANK_FILE.fullmatch(name) or "/" in name or "\0" in name:
        raise _wrong(path, f"file_name of {tensor}: {ascii(name)[:120]}", "a file of a rank, as model-0000000-0000008.safetensors")
    return name


def _shape_and_boxes(path: RootedPath, name: str, value: Mapping[str, Any]) -> tuple[Corner, list[tuple[Corner, Corner]]]:
    shape, boxes = _numbers(path, value.get("global_shape"), f"global_shape of {name}"), []
    chunks = value.get("chunk")
    if not isinstance(chunks, list) or not chunks:
        raise _wrong(path, f"chunk of {name}", "a list of boxes")
    for chunk in chunks:
        held = _mapping(path, chunk, f"a chunk of {name}")
        starts, local = (_numbers(path, held.get(field), f"{field} of {name}") for field in ("global_offset", "local_shape"))
        # A tensor that is not cut may have one 0 for all its dimensions (generate_default_metadata_from_checkpoint).
        starts = (0,) * len(shape) if starts == (0,) else starts
        stops = tuple(start + size for start, size in zip(starts, local, strict=False))
        if not len(starts) == len(local) == len(shape) or any(stop > size for stop, size in zip(stops, shape, strict=True)):
            raise _wrong(path, f"a chunk of {name} at {list(starts)} of {list(local)}", f"a box within {list(shape)}")
        boxes.append((starts, stops))
    return shape, list(dict.fromkeys(boxes))


def _check_files(folder: RootedPath, chunks: Iterable[Chunk], found: Mapping[Key, Found], whole: set[str]) -> None:
    """Raises SourceError where a file holds a box in another shape, or lacks one although it should hold all that its rank has."""
    faults = []
    for chunk in chunks:
        for file in chunk.files:
            have = found.get((file, chunk.name))
            if have is not None and have.tensor.shape != chunk.shape:
                faults.append(f"{chunk} is {list(chunk.shape)} in {METADATA}, {list(have.tensor.shape)} in {file}")
            elif have is None and file in whole:
                faults.append(f"{chunk} is not in {file}, which should hold it")
    if faults:
        do = f"{_AGAIN}; if redundant tensors were left out on saving, state source.has_redundancy: false"
        raise SourceError(f"{folder}: {METADATA} and the files contradict each other", facts=shown(faults), do=do)


def _check_whole(folder: RootedPath, shapes: Mapping[str, Corner], chunks: Iterable[Chunk], found: Mapping[Key, Found]) -> None:
    """Raises SourceError for boxes that are in no file; that those which are there overlap nowhere planning shows."""
    lacking, covered = [], dict.fromkeys(shapes, 0)
    for chunk in chunks:
        if any((file, chunk.name) in found for file in chunk.files):
            covered[chunk.name] += prod(chunk.shape)
        else:
            lacking.append(f"{chunk} of {list(shapes[chunk.name])}: {' or '.join(chunk.files[:4]) or 'no file'} should have it")
    short = {name for name, shape in shapes.items() if covered[name] < prod(shape)} - {chunk.name for chunk in chunks if not chunk.files}
    lacking += [f"{name}: {covered[name]} of {prod(shapes[name])} elements are in a box" for name in sorted(short)] if not lacking else []
    if lacking:
        raise SourceError(f"{folder}: {len(lacking)} part(s) of tensors are in no file", facts=shown(lacking), do=_AGAIN)


def _notes(folder: RootedPath, named: set[str], there: set[str]) -> list[Note]:
    state = sorted(name for name in there if is_optimizers(name))
    other = sorted(name for name in there - named if not is_optimizers(name))
    missing = sorted(named - there)
    return list(_said(state, other, missing))


def _said(state: list[str], other: list[str], missing: list[str]) -> Iterator[Note]:
    if state:
        yield Note("ignored", f"{len(state)} file(s) of optimizer state, not weights: e.g. {state[0]}")
    if other:
        yield Note("ignored", f"{len(other)} weight file(s) that {METADATA} does not name: e.g. {other[0]}")
    if missing:
        yield Note("advice", f"{len(missing)} file(s) of ranks are not there; all they hold is in others: e.g. {missing[0]}")


def _mapping(path: RootedPath, value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, what, "an object")
    return value


def _numbers(path: RootedPath, value: object, what: str) -> Corner:
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 1 << 53 for each in value):
        raise _wrong(path, what, "a list of whole numbers")
    return tuple(value)


def _wrong(path: RootedPath, what: str, expected: str) -> SourceError:
    return SourceError(f"{path} is no metadata of MindSpore Transformers: {what} must be {expected}", do=_AGAIN)
