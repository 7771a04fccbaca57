"""Safetensors that torch's HuggingFaceStorageWriter has sharded: every file's metadata says where in the whole its tensors begin.

    shard-00001-model-00001-of-00002.safetensors    __metadata__: {"DCP_SHARDING_INFO": '{NAME: {"saved_offsets": [..]}}', ...}

After torch/distributed/checkpoint/hf_storage.py and _hf_utils.py of torch 2.8 to 2.13. Nothing says how large a tensor is: as torch's own
reader takes it, it ends where its last piece does; what is missing behind that shows in the model's shapes only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from math import prod
from operator import add
from typing import Any

from convsvc.dialects.checkpoint import SourceFile
from convsvc.dialects.dcp.pieces import Collected, Pieces
from convsvc.dialects.files import index_files
from convsvc.errors import FormatError, SourceError
from convsvc.formats.base import StoredTensor
from convsvc.formats.dcp.records import Chunk, Chunked, Item, Metadata
from convsvc.roots import RootedPath
from convsvc.tensors.boxes import Box

SHARD = re.compile(r"shard-(\d+)-model-(\d+)-of-(\d+)\.safetensors")
INFO, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


def is_sharded(names: Iterable[str]) -> bool:
    """Whether there are files with the names of shards."""
    return any(SHARD.fullmatch(name) for name in names)


def find_sharded(root: RootedPath, wanted: Callable[[Metadata], Mapping[str, Chunked]]) -> Pieces:
    """The pieces of the tensors that are wanted, of all that there are.

    Raises SourceError where shards are missing or two disagree on a tensor's dtype; FormatError where a file does not say its offsets.
    """
    names = [name for name in root.names() if SHARD.fullmatch(name)]
    _check_numbers(root, names)
    files: list[SourceFile] = []
    met: dict[str, list[tuple[str, int, StoredTensor, Box]]] = {}
    for number, (name, (index, file)) in enumerate(zip(names, index_files([root / name for name in names]), strict=True)):
        files.append(file)
        offsets = _offsets(file.name, index.metadata)
        for tensor in index.tensors:
            met.setdefault(tensor.name, []).append((name, number, tensor, _box(file.name, tensor, offsets)))
    tensors = {name: _chunked(root, name, pieces) for name, pieces in met.items()}
    chosen = wanted(Metadata(tensors, ()))
    collected = Collected()
    for name in chosen:
        for piece in met[name]:
            if piece[3].volume or not prod(chosen[name].shape):
                collected.add(*piece)
    return Pieces(tuple(files), chosen, collected.found, collected.in_cuts())


def _check_numbers(root: RootedPath, names: Iterable[str]) -> None:
    numbers = {int(match[1]) for name in names if (match := SHARD.fullmatch(name))}
    missing = sorted(set(range(1, max(numbers) + 1)) - numbers)
    if missing:
        raise SourceError(f"{root}: shards {', '.join(map(str, missing[:10]))} of at least {max(numbers)} are not there", do="fetch them")


def _offsets(path: str, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        said = json.loads(metadata.get(INFO, ""))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise FormatError(f"{path} is named as a shard, and its metadata has no {INFO}", do="give a Hugging Face directory as what it is")
    return said


def _box(path: str, tensor: StoredTensor, offsets: Mapping[str, Any]) -> Box:
    said = offsets.get(tensor.name)
    starts = said.get(OFFSETS) if isinstance(said, dict) else None
    if not isinstance(starts, list) or len(starts) != len(tensor.shape) or not all(type(at) is int and 0 <= at < 2**53 for at in starts):
        raise FormatError(f"{path}: {INFO} does not say where {tensor.name[:200]} {list(tensor.shape)} begins", do="save it again")
    return Box(tuple(starts), tuple(map(add, starts, tensor.shape)))


def _chunked(root: RootedPath, name: str, pieces: list[tuple[str, int, StoredTensor, Box]]) -> Chunked:
    dtypes = {tensor.dtype for _, _, tensor, _ in pieces}
    ranks = {len(box.stops) for *_, box in pieces}
    if len(dtypes) > 1 or len(ranks) > 1:
        raise SourceError(f"{root}: the shards have {name[:200]} as {' and '.join(sorted(dtypes))}, of {sorted(ranks)} dimensions")
    shape = tuple(map(max, zip(*(box.stops for *_, box in pieces), strict=True)))
    chunks = [Chunk(box, Item(file, tensor.file_offset, tensor.size_bytes)) for file, _, tensor, box in pieces]
    return Chunked(dtypes.pop(), shape, tuple(chunks))
