"""From a pickled object to a tree whose tensors have names and places."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from convsvc.errors import FormatError
from convsvc.formats.base import Global, Inert, StoredTensor
from convsvc.formats.torch_tensors import Strided

MAX_DEPTH = 100
# All names together: a hostile file can give millions of tensors, or a path of a hundred long keys, in a few bytes.
MAX_NAME_CHARACTERS = 32 << 20
_CONTAINERS = (dict, list, tuple, set, frozenset, Namespace, Inert, Strided)
_SHOWN_FAULTS = 10


class Namer:
    """Walks a tree once and puts a `StoredTensor` where each tensor stands, named by its path.

    Each container is visited once, by its first path, however often it is referred to: twenty nested lists of twice the same list
    are a million paths. Lists, dicts, Namespaces and inert records are changed in place, tuples rebuilt. `place` gives a tensor's
    first byte in the file, or raises ValueError saying in words what is wrong with it.
    """

    def __init__(self, source: str, place: Callable[[Strided], int]) -> None:
        self.source = source
        self.place = place
        self.tensors: dict[str, StoredTensor] = {}
        self.faults: list[str] = []
        self._done: dict[int, Any] = {}
        self._open_tuples: set[int] = set()
        self._kept: list[Any] = []  # what was replaced: an id is a key only as long as its object lives
        self._characters = 0

    def name_all(self, root: Any) -> Any:
        """The tree with its tensors in place; a plain value is a tree of nothing. Raises one FormatError for all tensors at fault."""
        if not isinstance(root, _CONTAINERS):
            return root
        named = self._visit(root, ())
        if not self.faults:
            return named
        shown = self.faults[:_SHOWN_FAULTS]
        shown += [f"and {len(self.faults) - _SHOWN_FAULTS} more"] if len(self.faults) > _SHOWN_FAULTS else []
        count = f"{len(self.faults)} of {len(self.faults) + len(self.tensors)} tensors"
        raise FormatError(f"{count} in {self.source} cannot be read", facts=shown, do="copy the file again, or save it again with torch")

    def _visit(self, value: Any, path: tuple[Any, ...]) -> Any:
        if type(value) is Strided:
            return self._named(value, path)
        if id(value) in self._done:
            return self._done[id(value)]
        if len(path) > MAX_DEPTH or id(value) in self._open_tuples:
            raise FormatError(f"the objects in {self.source} are nested deeper than {MAX_DEPTH}, or a tuple contains itself")
        if type(value) is tuple:
            return self._visit_tuple(value, path)
        self._done[id(value)] = value
        for key, item, put in _members(value):
            if isinstance(item, _CONTAINERS) and type(item) is not Global:
                put(key, self._visit(item, (*path, key)))
        return value

    def _visit_tuple(self, value: tuple[Any, ...], path: tuple[Any, ...]) -> tuple[Any, ...]:
        self._open_tuples.add(id(value))
        items = [
            self._visit(item, (*path, number)) if isinstance(item, _CONTAINERS) and type(item) is not Global else item
            for number, item in enumerate(value)
        ]
        self._open_tuples.discard(id(value))
        named = tuple(items)
        self._kept.append(value)
        self._done[id(value)] = self._done[id(named)] = named
        return named

    def _named(self, tensor: Strided, path: tuple[Any, ...]) -> StoredTensor | None:
        name = self._name(path)
        try:
            if name in self.tensors:
                raise ValueError("is the name of two tensors")
            file_offset = self.place(tensor)
        except ValueError as error:
            self.faults.append(f"{name[:200]}: {error}")
            return None
        self.tensors[name] = StoredTensor(name, tensor.dtype, tensor.shape, file_offset)
        return self.tensors[name]

    def _name(self, path: tuple[Any, ...]) -> str:
        parts = [_label(part) for part in path]
        self._characters += sum(len(part) + 1 for part in parts)
        if self._characters > MAX_NAME_CHARACTERS:
            raise FormatError(f"the names of the tensors in {self.source} have over {MAX_NAME_CHARACTERS} characters")
        return "/".join(parts)


def _members(value: Any) -> Iterable[tuple[Any, Any, Callable[[Any, Any], None]]]:
    """What a container holds, as (key, member, how to put another in its place)."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return [(key, item, value.__setitem__) for key, item in value.items()]
    if isinstance(value, list):
        return ((number, item, value.__setitem__) for number, item in enumerate(value))
    if isinstance(value, Inert):
        return [(key, getattr(value, key), partial(object.__setattr__, value)) for key in ("args", "state")]
    # A set's members are keys, so no tensors; what lies in an inert one is put into that one itself.
    return ((number, item, _leave) for number, item in enumerate(value) if isinstance(item, Inert))


def _leave(key: Any, item: Any) -> None:
    """Nothing to put: the member is the same object."""


def _label(key: Any) -> str:
    if isinstance(key, Inert):
        return f"{key.module}.{key.name}"
    if isinstance(key, tuple):
        return ",".join(_label(part) for part in key)
    return key if isinstance(key, str) else str(key)
