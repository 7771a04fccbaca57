"""The machine that a pickle is a program for: a stack, marks, a memo, and objects of a closed set of types, at a bounded price."""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convsvc.errors import FormatError
from convsvc.formats.base import Global, Inert
from convsvc.formats.pickle.globals import global_named, hostile, member_of

Builder = Callable[[tuple[Any, ...]], Any]


# What a copy of one item takes, in bytes, about.
_PRICES: Mapping[type, int] = {str: 1, bytes: 1, list: 64, tuple: 64, dict: 64, OrderedDict: 64, set: 64, frozenset: 64}
_STOP = ord(".")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pickle may cost. Real ones have under a million opcodes; a hostile one ends near 1 GiB of memory at worst."""

    size_bytes: int = 128 << 20
    opcodes: int = 4_000_000
    integer_bytes: int = 255
    key_parts: int = 64
    composite_keys: int = 10_000
    copied_bytes: int = 256 << 20


LIMITS = Limits()


class Built:
    """An object that a builder makes of a class of its own: one of very many, which only keeps what is of use of its state.

    May be a key; compared by identity.
    """

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Takes what it needs out of the state, which is emptied then: no honest object shares its attributes with another.

        Raises KeyError, TypeError or ValueError for a state that is not of its class.
        """
        raise NotImplementedError


class Machine:
    """The pickle machine: a stack, marks in it, a memo, and a position in the data."""

    __slots__ = (
        "builders",
        "composite_keys",
        "copied_bytes",
        "data",
        "limits",
        "marks",
        "memo",
        "persistent_load",
        "position",
        "skipped",
        "source",
        "stack",
    )

    def __init__(
        self,
        data: bytes,
        source: str,
        builders: Mapping[tuple[str, str], Builder],
        persistent_load: Callable[[Any], Any],
        limits: Limits,
    ) -> None:
        self.data, self.source, self.limits = data, source, limits
        self.builders, self.persistent_load = builders, persistent_load
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.position = 0
        self.composite_keys = self.copied_bytes = 0
        self.skipped = 0  # numbers of the memo that were taken and left empty

    def run(self, opcodes: Mapping[int, Callable[[Machine], Any]]) -> Any:
        """The object that the whole program leaves; `opcodes` are its steps by their codes."""
        data = self.data
        for _ in range(self.limits.opcodes):
            opcode = data[self.position]
            self.position += 1
            if opcode == _STOP:
                return self._result()
            step = opcodes.get(opcode)
            if step is None:
                raise self.damaged(f"opcode {opcode:#x}, which torch.save does not write")
            step(self)
        raise FormatError(f"the pickle of {self.source} has over {self.limits.opcodes} opcodes; no checkpoint needs as many")

    def damaged(self, fact: str) -> FormatError:
        where = f"at byte {self.position} of {len(self.data)}"
        return FormatError(
            f"the pickle of {self.source} is damaged", facts=[f"{where}: {fact}"], do="copy the file again or save it again with torch"
        )

    def _result(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise self.damaged(f"it ends with {len(self.stack)} objects instead of one")
        return self.stack[0]

    # -- the data

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        stop = self.position + size
        if stop > len(self.data):
            raise self.damaged("it ends in the middle of a value")
        part = self.data[self.position : stop]
        self.position = stop
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        stop = self.data.find(b"\n", self.position, self.position + 1001)
        if stop < 0:
            raise self.damaged("a name that does not end")
        part = self.take(stop + 1 - self.position)
        return part[:-1].decode()

    # -- the stack

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise self.damaged("it takes an object from under a mark")
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) - count < (self.marks[-1] if self.marks else 0):
            raise self.damaged("it takes objects that are not there")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    # -- containers

    def key(self, value: Any) -> Any:
        """`value` if it may be a dict's key or a set's element, at a bounded price.

        A nested tuple's hash visits each reference again and again (2**40 steps for 40 short tuples), and colliding hashes of
        tuples and of huge integers are easy to make; strings and bytes are hashed with a secret.
        """
        if type(value) in (str, bytes, bool, float, type(None)) or isinstance(value, Inert | Built):
            return value
        if type(value) is int and -(2**60) < value < 2**60:
            return value
        if type(value) is tuple and self._is_flat(value):
            self.composite_keys += 1
            if self.composite_keys <= self.limits.composite_keys:
                return value
            raise self.damaged(f"over {self.limits.composite_keys} keys that are tuples")
        raise self.damaged(f"{type(value).__name__} as a key")

    def _is_flat(self, value: tuple[Any, ...]) -> bool:
        pending, parts = [value], 0
        while pending:
            part = pending.pop()
            parts += len(part)
            if parts > self.limits.key_parts:
                return False
            for item in part:
                if type(item) is tuple:
                    pending.append(item)
                elif type(item) not in (str, bytes, bool, int, float, type(None)) and not isinstance(item, Inert):
                    return False
        return True

    def extend(self, target: Any, items: list[Any]) -> None:
        """APPENDS: to a list, or to an inert object that is a kind of list."""
        if type(target) is Inert:
            _gather(target, list).extend(items)
        elif type(target) is list:
            target.extend(items)
        else:
            raise self.damaged(f"it appends to {type(target).__name__}")

    def update(self, target: Any, items: list[Any]) -> None:
        """SETITEMS: in a dict, or in an inert object that is a kind of dict."""
        if len(items) % 2:
            raise self.damaged("a key without a value")
        pairs = {self.key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}
        if type(target) is Inert:
            _gather(target, dict).update(pairs)
        elif isinstance(target, dict):
            target.update(pairs)
        else:
            raise self.damaged(f"it sets items of {type(target).__name__}")

    # -- objects

    def charge(self, *values: Any) -> None:
        """Count what is about to be copied: three opcodes can ask for one more copy of a large list, millions of times."""
        for value in values:
            price = _PRICES.get(type(value))
            if price:
                self.copied_bytes += price * len(value)
        if self.copied_bytes > self.limits.copied_bytes:
            raise self.damaged(f"it copies over {self.limits.copied_bytes} bytes of its own objects")

    def call(self, function: Any, args: Any) -> Any:
        """REDUCE and NEWOBJ: what a builder makes, or an inert record; nothing is called that the file chose."""
        if type(function) is not Global or type(args) is not tuple:
            raise self.damaged(f"it calls {type(function).__name__} with {type(args).__name__}")
        self.charge(*args[:64])
        name = (function.module, function.name)
        if name == ("builtins", "getattr"):
            if len(args) != 2:
                raise hostile(self.source, "builtins.getattr")
            return member_of(*args, self.source)
        if name in (("builtins", "set"), ("builtins", "frozenset")) and len(args) == 1 and type(args[0]) in (list, tuple):
            made = {self.key(item) for item in args[0]}
            return made if function.name == "set" else frozenset(made)
        if name == ("argparse", "Namespace") and not args:
            return Namespace()
        builder = self.builders.get(name)
        return builder(args) if builder else Inert(*name, args)

    def build(self, target: Any, state: Any) -> None:
        """BUILD: attributes of a Namespace; the state of an inert record. Those of a dict are not kept: torch puts `_metadata` there."""
        if type(target) is Namespace:
            self._set_attributes(target, state)
        elif type(target) is Inert:
            object.__setattr__(target, "state", state if target.state is None else (target.state, state))
        elif isinstance(target, Built):
            target.build(state)
            if type(state) is dict:
                state.clear()
        elif not isinstance(target, dict):
            raise hostile(self.source, f"attributes of {type(target).__name__}")

    def _set_attributes(self, target: Namespace, state: Any) -> None:
        if type(state) is not dict or not all(type(name) is str and not name.startswith("__") for name in state):
            raise self.damaged("a Namespace whose state is not a dict of names")
        self.charge(state)
        vars(target).update(state)

    def name_global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or len(module) + len(name) > 1000:
            raise self.damaged("a global whose name is not a string, or none that could be")
        self.push(global_named(module, name, self.source))

    def memoize(self) -> None:
        """MEMOIZE: under the next number."""
        self.memo[len(self.memo) + self.skipped] = self.stack[-1]

    def remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]


def _gather(target: Inert, kind: Callable[[], Any]) -> Any:
    """The list or dict in which an inert record keeps what is put into it."""
    if target.state is None:
        object.__setattr__(target, "state", kind())
    if type(target.state) is not kind:
        raise TypeError("an inert object that is a list and a dict")
    return target.state
