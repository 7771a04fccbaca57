"""What a `.metadata` says, without torch: tensors by name, cut into chunks, each with its place. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from convsvc.tensors.boxes import Box

# Its name, as torch/distributed/checkpoint/filesystem.py has it.
METADATA = ".metadata"


class Item(NamedTuple):
    """Where a chunk is saved: `size_bytes` bytes of `file` (relative to the directory) from `file_offset` on, a torch file."""

    file: str
    file_offset: int
    size_bytes: int


class Chunk(NamedTuple):
    """A box of a tensor; `item` is None where nothing says where it lies."""

    box: Box
    item: Item | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its own."""
        return tuple([stop - start for start, stop in zip(*self.box, strict=True)])


class Chunked(NamedTuple):
    """A tensor: its dtype (a tag, or torch's own word for one that is none of ours), its whole shape, its chunks."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class Metadata(NamedTuple):
    """A directory's tensors by their full names, and the names of what is saved beside them and is no tensor.

    `places` say where those objects lie, as far as that is known: each is a torch file of a value.
    """

    tensors: dict[str, Chunked]
    objects: tuple[str, ...]
    places: Mapping[str, Item] = MappingProxyType({})
