"""What every file format answers: where its tensors lie, and what a new file of it looks like.

Formats know bytes, not models. All offsets here are in bytes from the start of the file; tensors are row-major and
little-endian. Dtypes are named by their safetensors tags (`tensors/dtypes.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from math import prod
from typing import Any, NamedTuple

from convsvc.tensors.dtypes import size_of
from convsvc.tensors.quick import quick

# So many of a file's first bytes tell what it is.
HEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a new file shall hold; no place yet."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * size_of(self.dtype)


class StoredTensor(NamedTuple):
    """A tensor in a file: `size_bytes` row-major bytes from `file_offset` on. A tuple, as there are very many."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file_offset: int

    @property
    def size_bytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


@lru_cache(maxsize=4096)
def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; a large model has half a million of few shapes.

    >>> tensor_bytes("BF16", (2, 3))
    12
    """
    return prod(shape) * size_of(dtype)


def stored_tensors(columns: Iterable[tuple[str, str, tuple[int, ...], int]]) -> tuple[StoredTensor, ...]:
    """Very many stored tensors from their names, dtypes, shapes and first bytes, in a fifth of the time.

    >>> stored_tensors([("w", "BF16", (2,), 8)])
    (StoredTensor(name='w', dtype='BF16', shape=(2,), file_offset=8),)
    """
    return tuple(map(quick, repeat(StoredTensor), columns))


@dataclass(frozen=True, slots=True)
class FileIndex:
    """What a file holds, from its headers alone.

    `tree` is the file's own structure (nested dicts and lists of plain values, `StoredTensor` leaves, `Inert` records); formats
    that are a flat table have `tree == {name: StoredTensor}`. `tensors` are the leaves; the name of a nested one is its path
    joined by "/". `digest` is of the headers that were read ("sha256:..."); formats say what it covers.
    """

    path: str
    size_bytes: int
    tensors: tuple[StoredTensor, ...]
    tree: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Inert:
    """A pickled object that was not built: its class or function by name, and what it would have been given.

    Compared by identity: whether two objects are equal only their class could say. `args` are what the class would have been
    called with, `state` what would have been set on, appended to, or put into it. A class that was only named is a `Global`.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: Any = None

    def __repr__(self) -> str:
        """Short whatever the file put in: args and state may be huge or contain the record itself."""
        return f"{type(self).__name__}({self.module}.{self.name})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Global(Inert):
    """A class, function or constant that a pickle names, e.g. `torch.bfloat16`. Never imported."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A new file before its tensors are written.

    `segments` are bytes known now, as (file offset, bytes); everything between them and the tensors is zero. What depends on
    the tensors' content (a zip's checksums) is added by the format's `seal`. `size_bytes` is final.
    """

    size_bytes: int
    tensors: tuple[StoredTensor, ...]
    segments: tuple[tuple[int, bytes], ...]
    seal_state: Any = None
