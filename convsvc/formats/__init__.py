"""How bytes lie on disk: one module a file format.

>>> sorted(FORMATS)
['safetensors', 'torch_zip']
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from convsvc.formats import safetensors, torch_zip
from convsvc.formats.base import FileIndex, Skeleton
from convsvc.formats.magic import HEAD_BYTES, describe, looks_like_safetensors, looks_like_zip
from convsvc.formats.regular_file import AnyPath, open_regular


class Format(Protocol):
    """What every format module offers. `plan_skeleton` is not here: what a file can hold differs (a flat table, a tree)."""

    @property
    def needs_crc(self) -> bool:
        """Whether `seal` wants the CRC-32 of every tensor."""

    def read_index(self, path: AnyPath) -> FileIndex:
        """Where a file's tensors lie, from its headers alone."""

    def seal(self, skeleton: Skeleton, crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
        """The segments that are known only once all tensors are written."""


FORMATS: Mapping[str, Format] = {"safetensors": safetensors, "torch_zip": torch_zip}


def format_of(path: AnyPath) -> str | None:
    """The name in `FORMATS` of what a file is by its first bytes; None for everything else.

    Raises FormatError if it is not a regular file or is empty.
    """
    with open_regular(path) as file:
        head = file.read(0, min(HEAD_BYTES, file.size_bytes), "the first bytes")
    if looks_like_zip(head):
        return "torch_zip"
    return "safetensors" if looks_like_safetensors(head) else None


def describe_file(path: AnyPath) -> tuple[str, str]:
    """What a file is by its first bytes, in words that follow "is", and what to do about it.

    Raises FormatError if it is not a regular file or is empty.
    """
    with open_regular(path) as file:
        return describe(file.read(0, min(HEAD_BYTES, file.size_bytes), "the first bytes"))
