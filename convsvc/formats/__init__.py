"""How bytes lie on disk: one module a file format.

>>> sorted(FORMATS)
['distcp', 'safetensors', 'torch_zip']
"""

from __future__ import annotations

from convsvc.formats.base import HEAD_BYTES
from convsvc.formats.known import FORMATS, Format, describe, name_of
from convsvc.formats.regular_file import AnyPath, open_regular

__all__ = ["FORMATS", "Format", "describe_file", "format_of"]


def format_of(path: AnyPath) -> str | None:
    """The name in `FORMATS` of what a file is by its first bytes; None for everything else.

    Raises FormatError if it is not a regular file or is empty.
    """
    return name_of(_head(path))


def describe_file(path: AnyPath) -> tuple[str, str]:
    """What a file is by its first bytes, in words that follow "is", and what to do about it.

    Raises FormatError if it is not a regular file or is empty.
    """
    return describe(_head(path))


def _head(path: AnyPath) -> bytes:
    with open_regular(path) as file:
        return file.read(0, min(HEAD_BYTES, file.size_bytes), "the first bytes")
