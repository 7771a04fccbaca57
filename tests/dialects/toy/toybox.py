"""A file format that nobody has: "TOYBOX1", the length of a JSON table, the table, the tensors, a CRC-32 for each of them at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from convsvc.errors import FormatError
from convsvc.formats.base import FileIndex, Skeleton, StoredTensor, TensorSpec
from convsvc.formats.regular_file import AnyPath, open_regular

WHAT, DO = "a toybox", "give it as one: format toy"
DIGEST_OF = "the table: names, dtypes, shapes and places, not the values"
MAGIC, LENGTH, ALIGN = b"TOYBOX1\n", 8, 4096


def looks_like(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read_index(path: AnyPath) -> FileIndex:
    with open_regular(path) as file:
        start = len(MAGIC) + LENGTH
        head = file.read(0, start, "the length of the table")
        if not looks_like(head):
            raise FormatError(f"{file.path} is no toybox")
        raw = file.read(start, int.from_bytes(head[len(MAGIC) :], "little"), "the table")
        try:
            tensors = tuple(StoredTensor(name, dtype, tuple(shape), at) for name, dtype, shape, at in json.loads(raw))
        except (ValueError, TypeError) as error:
            raise FormatError(f"the table of {file.path} cannot be read: {error}") from None
        if tensors and max(each.file_offset + each.size_bytes for each in tensors) + 4 * len(tensors) != file.size_bytes:
            raise FormatError(f"{file.path} is not as long as its table says", do="copy the file again")
    tree: dict[str, Any] = {tensor.name: tensor for tensor in tensors}
    return FileIndex(file.path, file.size_bytes, tensors, tree, digest=f"sha256:{hashlib.sha256(raw).hexdigest()}")


def plan_skeleton(tensors: Sequence[TensorSpec]) -> Skeleton:
    at, stored = ALIGN, []
    for each in tensors:
        stored.append(StoredTensor(each.name, each.dtype, each.shape, at))
        at += each.size_bytes
    table = json.dumps([[each.name, each.dtype, each.shape, each.file_offset] for each in stored]).encode()
    head = MAGIC + len(table).to_bytes(LENGTH, "little") + table
    assert len(head) <= ALIGN, "a toybox is small"
    return Skeleton(at + 4 * len(stored), tuple(stored), ((0, head),))


def seal(skeleton: Skeleton, crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
    tail = b"".join(crcs[each.name].to_bytes(4, "little") for each in skeleton.tensors)
    return ((skeleton.size_bytes - len(tail), tail),)
