"""Files of torch.distributed.checkpoint (`.distcp`): torch files of one tensor each, one after the other; `.metadata` says where.

By its first bytes such a file is a torch file, so it is never told by them. Offset and length of an item are free: items are laid so that
tensors begin where direct I/O reaches them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from convsvc.errors import FormatError, TargetError
from convsvc.formats.base import FileIndex, Skeleton, StoredTensor, TensorSpec
from convsvc.formats.dcp.items import Wanted, locate_items
from convsvc.formats.dcp.metadata import read_metadata
from convsvc.formats.dcp.records import METADATA, Metadata
from convsvc.formats.regular_file import AnyPath
from convsvc.formats.torch_zip_layout import plan_torch_zip, seal_torch_zip
from convsvc.roots import RootedPath

WHAT, DO = "a file of a torch distributed checkpoint, as the .metadata beside it tells", "give the directory that it lies in"
DIGEST_OF = "the zip directories of its items: names, sizes, places and the CRC-32 of every record, so the values too, as far as that goes"

# torch.save to a stream calls its folder so.
_ARCHIVE = "archive"
# The values of every tensor begin with a page; its item begins before that page.
_ALIGN, _WITHIN = 4096, 64


def looks_like(head: bytes) -> bool:
    """Never: a file begins as the first of its items does."""
    return False


def read_index(path: AnyPath) -> FileIndex:
    """Where the tensors of a file lie that has a `.metadata` beside it, by the names in there.

    Raises FormatError where there is none, or an item is not as it says; HostileFile, StorageError.
    """
    rooted = path if isinstance(path, RootedPath) else RootedPath(os.fspath(path))
    folder = RootedPath(os.path.dirname(rooted.path), rooted.roots)
    found = (folder / METADATA).look()
    if found is None:
        raise FormatError(f"{path} is {WHAT}, and there is none", do=DO)
    metadata = _metadata(folder, found[1].st_size, found[1].st_mtime_ns)
    wanted = [
        Wanted(chunk.item, name, each.dtype, chunk.shape)
        for name, each in metadata.tensors.items()
        for chunk in each.chunks
        if chunk.item is not None and chunk.item.file == rooted.name
    ]
    size, digest, tensors = locate_items(rooted, wanted)
    return FileIndex(rooted.path, size, tuple(tensors), {tensor.name: tensor for tensor in tensors}, digest=digest)


@lru_cache(maxsize=1)
def _metadata(folder: RootedPath, size_bytes: int, mtime_ns: int) -> Metadata:
    """What is said of a directory's files, read once for all of them; by size and time, too, as it may be written anew."""
    return read_metadata(folder / METADATA)


def plan_skeleton(tensors: Sequence[TensorSpec]) -> Skeleton:
    """A new file with these tensors, an item each. Pure. Raises TargetError for names that occur twice."""
    stored: list[StoredTensor] = []
    at = 0
    for spec in tensors:
        item = _item(spec.dtype, spec.shape)
        before = item.tensors[0].file_offset
        values = -(-(at + before) // _ALIGN) * _ALIGN
        stored.append(StoredTensor(spec.name, spec.dtype, spec.shape, values))
        at = values - before + item.size_bytes
    if len({spec.name for spec in tensors}) != len(tensors):
        raise TargetError("a .distcp file cannot hold two tensors of one name")
    return Skeleton(at, tuple(stored), ())


def seal(skeleton: Skeleton, crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
    """All that is not a tensor, which is little beside the tensors and much in a plan. Raises TargetError if a checksum is missing."""
    return tuple(chain.from_iterable(_sealed(tensor, crcs) for tensor in skeleton.tensors))


def item_of(tensor: StoredTensor) -> tuple[int, int]:
    """First byte and size in bytes of the item in which a tensor of a skeleton lies."""
    item = _item(tensor.dtype, tensor.shape)
    return tensor.file_offset - item.tensors[0].file_offset, item.size_bytes


def frame(tensor: StoredTensor) -> list[tuple[int, bytes]]:
    """What of a tensor's item depends on its place alone, as (file offset, bytes): all that is before it, and some behind it."""
    first, _ = item_of(tensor)
    return [(first + offset, data) for offset, data in _item(tensor.dtype, tensor.shape).segments]


def closing(tensor: StoredTensor, crc: int) -> list[tuple[int, bytes]]:
    """The rest, which depends on the tensor's CRC-32 and stands behind it."""
    first, _ = item_of(tensor)
    return [(first + offset, data) for offset, data in seal_torch_zip(_item(tensor.dtype, tensor.shape).seal_state, {"": crc})]


def open_with_library(path: str) -> Mapping[str, Any]:
    """The tensors that torch finds, by the names that `.metadata` has for them."""
    from convsvc.formats.witnesses import open_distcp

    return open_distcp(path)


@lru_cache(maxsize=4096)
def _item(dtype: str, shape: tuple[int, ...]) -> Skeleton:
    """A torch file that is a tensor and nothing else."""
    spec = TensorSpec("", dtype, shape)
    return plan_torch_zip(spec, _ARCHIVE, _WITHIN, streamed=True)


def _sealed(tensor: StoredTensor, crcs: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
    if tensor.size_bytes and tensor.name not in crcs:
        raise TargetError(f"{tensor.name} has no checksum", do="write it before the file is sealed")
    yield from frame(tensor)
    yield from closing(tensor, crcs.get(tensor.name, 0))
