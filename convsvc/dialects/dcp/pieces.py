"""The pieces of a checkpoint's tensors in its files: where each lies, from the files' own headers."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import prod
from typing import NamedTuple

from convsvc.dialects.checkpoint import Found, SourceFile
from convsvc.dialects.cuts import Cut
from convsvc.dialects.files import READERS
from convsvc.errors import SourceError
from convsvc.formats.base import StoredTensor
from convsvc.formats.dcp.items import Wanted, locate_items
from convsvc.formats.dcp.records import Chunked
from convsvc.roots import RootedPath
from convsvc.tensors.boxes import Box

SHOWN = 12
KIND = "distcp"

Key = tuple[str, str]


class Pieces(NamedTuple):
    """Files; tensors by their full names; every piece by (where, name), `where` being as in the cuts; what of each tensor lies where."""

    files: tuple[SourceFile, ...]
    tensors: Mapping[str, Chunked]
    found: dict[Key, Found]
    cuts: dict[str, tuple[Cut, ...]]


def find_pieces(root: RootedPath, tensors: Mapping[str, Chunked]) -> Pieces:
    """Every chunk that holds anything.

    Raises SourceError for files that are not there and for bytes that two chunks claim, FormatError for what an item is not.
    """
    by_file = _by_file(tensors)
    _check_there(root, by_file)
    for held in by_file.values():
        held.sort(key=lambda piece: piece[0][0][1])  # its item's offset
    _check_apart(root, by_file)
    with ThreadPoolExecutor(READERS, "convsvc-index") as pool:
        located = list(pool.map(lambda name: _locate(root / name, [wanted for wanted, _ in by_file[name]]), by_file))
    files = tuple([file for file, _ in located])
    pieces = Collected()
    for number, (name, (_, places)) in enumerate(zip(by_file, located, strict=True)):
        for (_, box), tensor in zip(by_file[name], places, strict=True):
            pieces.add(name, number, tensor, box)
    return Pieces(files, tensors, pieces.found, pieces.in_cuts())


def _by_file(tensors: Mapping[str, Chunked]) -> dict[str, list[tuple[Wanted, Box]]]:
    by_file: dict[str, list[tuple[Wanted, Box]]] = {}
    shapes: dict[Box, tuple[int, ...] | None] = {}  # of half a million chunks there are few; None: of one that holds nothing
    for name, (dtype, whole, chunks) in tensors.items():
        is_empty = not prod(whole)
        for box, item in chunks:
            if box not in shapes:
                shapes[box] = box.shape if box.volume else None
            shape = shapes[box]
            if item is not None and (shape is not None or is_empty):
                by_file.setdefault(item[0], []).append((Wanted(item, name, dtype, box.shape if shape is None else shape), box))
    return by_file


class Collected:
    """Pieces as they are met. A file may hold several of one tensor: the later ones are told by their place, too."""

    def __init__(self) -> None:
        self.found: dict[Key, Found] = {}
        self._cuts: dict[str, list[Cut]] = {}

    def add(self, file: str, number: int, tensor: StoredTensor, box: Box) -> None:
        name = tensor.name
        where = file if (file, name) not in self.found else f"{file} at byte {tensor.file_offset}"
        self.found[where, name] = Found(number, tensor)
        self._cuts.setdefault(name, []).append(Cut(where, *box))

    def in_cuts(self) -> dict[str, tuple[Cut, ...]]:
        return {name: tuple(cuts) for name, cuts in self._cuts.items()}


def _check_there(root: RootedPath, by_file: Mapping[str, list[tuple[Wanted, Box]]]) -> None:
    missing = [name for name in by_file if not (root / name).is_file()]
    if missing:
        facts = [f"{name}: {len(by_file[name])} chunks, e.g. of {by_file[name][0][0].name[:200]}" for name in missing[:SHOWN]]
        raise SourceError(f"{root}: {len(missing)} of {len(by_file)} files that .metadata names are missing", facts=facts, do="fetch them")


def _check_apart(root: RootedPath, by_file: Mapping[str, list[tuple[Wanted, Box]]]) -> None:
    """Raises SourceError where two chunks lie at the same bytes of a file; chunks of a file are in the order of their offsets.

    Every writer saves each chunk for itself, tied weights too (torch/distributed/checkpoint/filesystem.py, _write_files_from_queue). An
    offset that is another chunk's leads to an item that is sound, and may be of the same dtype and shape: nothing else would show it.
    """
    faults = []
    for name, held in by_file.items():
        for (one, box), (other, another) in pairwise(held):
            _, first, size_bytes = one[0]
            if other[0][1] < first + size_bytes and (one.name, box) != (other.name, another):
                faults.append(f"{name}: {_placed(one, box)} and {_placed(other, another)}")
    if faults:
        raise SourceError(
            f"{root}: {len(faults)} pairs of chunks lie at the same bytes, as .metadata says",
            facts=[*faults[:SHOWN], *([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])],
            do="fetch .metadata again, or save the checkpoint again: one of the two is somewhere else",
        )


def _placed(wanted: Wanted, box: Box) -> str:
    _, first, size_bytes = wanted.item
    return f"{wanted.name[:200]} from {list(box.starts)} at bytes {first}:{first + size_bytes}"


def _locate(path: RootedPath, wanted: list[Wanted]) -> tuple[SourceFile, list[StoredTensor]]:
    """The file as it was, and where in it each wanted chunk lies."""
    before = path.look()
    if before is None:
        raise SourceError(f"{path} does not exist")
    _, digest, tensors = locate_items(path, wanted)
    return SourceFile(before[0], KIND, before[1].st_size, before[1].st_mtime_ns, path.path, digest), tensors
