"""Which file formats there are: the modules of this folder that say how a file of theirs begins (`looks_like`), and entry points of the
group `convsvc.formats` of packages that are installed beside convsvc.

A module's name is its format's; an entry point is called as its format, and its value is a module with the same names in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any, Protocol, cast

from convsvc.formats import unread
from convsvc.formats.base import FileIndex, Skeleton
from convsvc.formats.regular_file import AnyPath

GROUP = PACKAGE = "convsvc.formats"


class Format(Protocol):
    """What every format's module offers. How a skeleton is planned is not here: what a file can hold differs (a flat table, a tree).

    `WHAT` are words that follow "is", `DO` what to do with such a file that was given as another kind, `DIGEST_OF` what of a file the
    digest in its index covers. A module may also have `open_with_library(path)`: what is in a file as the reader finds it that users have
    (tensors by name, each with `dtype`, `shape` and `crc()`, as in `witnesses`); without it, nobody else is asked.
    """

    WHAT: str
    DO: str
    DIGEST_OF: str

    def looks_like(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes is one."""

    def read_index(self, path: AnyPath) -> FileIndex:
        """Where a file's tensors lie, from its headers alone."""

    def seal(self, skeleton: Skeleton, crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
        """The segments that are known only once all tensors are written; `crcs` are the tensors' CRC-32."""


class Formats(Mapping[str, Format]):
    """The formats by name. They are found when one is first asked for: their modules import this one."""

    @cached_property
    def _found(self) -> Mapping[str, Format]:
        modules = ((each.name, import_module(f"{PACKAGE}.{each.name}")) for each in iter_modules(import_module(PACKAGE).__path__))
        found: dict[str, Any] = {name: module for name, module in modules if hasattr(module, "looks_like")}
        for point in entry_points(group=GROUP):
            if point.name in found:
                raise ImportError(f"two file formats are called {point.name}: {found[point.name].__name__} and {point.value}")
            found[point.name] = point.load()
        return MappingProxyType(cast("dict[str, Format]", found))

    def __getitem__(self, name: str) -> Format:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


FORMATS = Formats()


def name_of(head: bytes) -> str | None:
    """The format of a file that begins with `head`; None for everything that is not read."""
    return next((name for name, each in FORMATS.items() if each.looks_like(head)), None)


def describe(head: bytes) -> tuple[str, str]:
    """What a file that begins with `head` is, in words that follow "is", and what to do about it.

    >>> describe(b"GGUF....")[0]
    'a GGUF file'
    >>> describe(b"PK\\x03\\x04....")
    ('a zip file', 'give it as a torch checkpoint (.pt, .bin)')
    """
    name = name_of(head)
    return unread.describe(head) if name is None else (FORMATS[name].WHAT, FORMATS[name].DO)
