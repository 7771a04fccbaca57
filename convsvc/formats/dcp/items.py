"""Where the tensors of a `.distcp` file lie: each of its items is a torch file by itself, at a place that `.metadata` says.

Its zip directory is at its end, its pickle at its beginning; a read of a few KiB of either end says all, however large the tensor is.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from convsvc.errors import FormatError
from convsvc.formats.base import StoredTensor
from convsvc.formats.dcp.patterns import Pattern, pattern_of
from convsvc.formats.dcp.records import Item
from convsvc.formats.regular_file import AnyPath, RegularFile, open_regular
from convsvc.formats.torch_zip import read_content

# What torch.save writes before a tensor's bytes and after them.
EDGE_BYTES = 1 << 11
MOST_OF_A_WORD, MOST_KNOWN = 1 << 16, 1 << 12
# Dtypes of steps and scales, as struct has them.
NUMBERS = {"F64": "<d", "F32": "<f", "I64": "<q", "I32": "<i"}


class Wanted(NamedTuple):
    """A chunk that should be in an item: its tensor's name, dtype, and the chunk's shape."""

    item: Item
    name: str
    dtype: str
    shape: tuple[int, ...]


class Window:
    """An item of a file as a file by itself; both of its ends are read once."""

    __slots__ = ("_file", "_first", "_head", "_tail", "_tail_offset", "path", "size_bytes")

    def __init__(self, file: RegularFile, wanted: Wanted) -> None:
        _, self._first, self.size_bytes = wanted.item
        self._file = file
        self.path = f"{file.path} (the item of {wanted.name[:200]} at byte {self._first})"
        if not self.size_bytes:
            raise FormatError(f"{self.path} is empty", do="save the checkpoint again")
        self._head = file.read(self._first, min(self.size_bytes, EDGE_BYTES), f"the item of {wanted.name[:200]}")
        self._tail_offset = max(0, self.size_bytes - EDGE_BYTES)
        self._tail = file.read(self._first + self._tail_offset, self.size_bytes - self._tail_offset, f"the item of {wanted.name[:200]}")

    def read(self, file_offset: int, size_bytes: int, what: str) -> bytes:
        """Exactly so many bytes of the item. Raises FormatError where it ends before."""
        stop = file_offset + size_bytes
        if stop > self.size_bytes:
            raise FormatError(
                f"{self.path} is cut short",
                facts=[f"{what} is at bytes {file_offset} to {stop}, the item has {self.size_bytes}"],
                do="copy the checkpoint again, or save it again",
            )
        if stop <= len(self._head):
            return self._head[file_offset:stop]
        if file_offset >= self._tail_offset:
            return self._tail[file_offset - self._tail_offset : stop - self._tail_offset]
        return self._file.read(self._first + file_offset, size_bytes, what)


def locate_items(path: AnyPath, wanted: Iterable[Wanted]) -> tuple[int, str, list[StoredTensor]]:
    """The size of a file, a digest of its items' zip directories, and where in it each wanted chunk lies, in their order.

    Raises FormatError, naming file and tensor, where an item is no torch file of that one tensor; HostileFile, StorageError.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        tensors = list(_located(file, wanted, digest))
        return file.size_bytes, f"sha256:{digest.hexdigest()}", tensors


def read_object(path: AnyPath, item: Item, name: str) -> Any:
    """The object that is saved as an item: what its torch file holds, without running its pickle. Raises FormatError, HostileFile."""
    with open_regular(path) as file:
        content = read_content(Window(file, Wanted(item, name, "", ())))
    return content.tree[""] if set(content.tree) == {""} else content.tree


def read_words(path: AnyPath, wanted: Iterable[tuple[str, Item]]) -> Iterator[tuple[str, Any]]:
    """Small objects of a file by their names, without running their pickles; a tensor of no dimensions is its number.

    Of a million of them few differ, and what has the same bytes is read as such. Raises FormatError, HostileFile.
    """
    known: dict[bytes, Any] = {}
    with open_regular(path) as file:
        for name, item in wanted:
            if item.size_bytes > MOST_OF_A_WORD:
                raise FormatError(f"{file.path} (the item of {name[:200]}) has {item.size_bytes} bytes, a word at most {MOST_OF_A_WORD}")
            data = file.read(item.file_offset, item.size_bytes, f"the item of {name[:200]}")
            if data not in known:
                if len(known) == MOST_KNOWN:
                    known.clear()
                known[data] = _word(InMemory(f"{file.path} (the item of {name[:200]} at byte {item.file_offset})", data))
            yield name, known[data]


class InMemory(NamedTuple):
    """A file that was read."""

    path: str
    data: bytes

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return len(self.data)

    def read(self, file_offset: int, size_bytes: int, what: str) -> bytes:
        """Exactly so many bytes. Raises FormatError where it ends before."""
        if file_offset + size_bytes > len(self.data):
            raise FormatError(f"{self.path} is cut short: {what} is not there", do="copy the checkpoint again, or save it again")
        return self.data[file_offset : file_offset + size_bytes]


def _word(file: InMemory) -> Any:
    content = read_content(file)
    value = content.tree[""] if set(content.tree) == {""} else content.tree
    if not isinstance(value, StoredTensor):
        return value
    if value.shape or value.dtype not in NUMBERS:
        raise FormatError(f"{file.path} is a tensor {value.dtype} {list(value.shape)}, where a number is expected")
    return struct.unpack(NUMBERS[value.dtype], file.read(value.file_offset, value.size_bytes, "a number"))[0]


def _located(file: RegularFile, wanted: Iterable[Wanted], digest: hashlib._Hash) -> Iterator[StoredTensor]:
    known: dict[tuple[str, tuple[int, ...], int], Pattern | None] = {}
    for item, name, dtype, shape in wanted:
        alike = dtype, shape, item.size_bytes
        pattern = known.get(alike)
        directory = pattern and pattern.directory(file, item.file_offset, name)
        if pattern is not None and directory:
            digest.update(directory)
            yield StoredTensor(name, dtype, shape, item.file_offset + pattern.data_offset)
            continue
        window = Window(file, Wanted(item, name, dtype, shape))
        found = _read_item(window, dtype, shape, digest)
        if alike not in known:
            known[alike] = pattern_of(window, found.file_offset)
        yield StoredTensor(name, dtype, shape, item.file_offset + found.file_offset)


def _read_item(window: Window, dtype: str, shape: tuple[int, ...], digest: hashlib._Hash) -> StoredTensor:
    tensors = read_content(window, digest).tensors
    found = tensors[0] if len(tensors) == 1 else None
    if found is None or found.name:
        raise FormatError(f"{window.path} holds {len(tensors)} tensors in a tree, not one by itself", do="save the checkpoint again")
    if found.dtype != dtype or not _are_alike(found.shape, shape):
        raise FormatError(
            f"{window.path} is not what .metadata says",
            facts=[f"expected {dtype} {list(shape)}, found {found.dtype} {list(found.shape)}"],
            do="copy the checkpoint again: its .metadata and its files are of different savings",
        )
    return found


def _are_alike(saved: tuple[int, ...], chunk: tuple[int, ...]) -> bool:
    """Whether a chunk is saved in its own shape, or without the first axes, along which it is one wide (`formats.dcp.metadata`)."""
    missing = len(chunk) - len(saved)
    return saved == chunk or (missing > 0 and (1,) * missing + saved == chunk)
