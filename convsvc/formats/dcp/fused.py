"""The two objects of which `.metadata` consists by the million, made in one step of the machine each instead of some thirty.

What the pickler of CPython writes for a chunk, or for a key of `storage_data` and its value, in protocol 4 and 5, is matched as a whole and
does what its opcodes would do; what is written otherwise is left to them. Of what these opcodes put into the memo only what pickles of
Metadata refer to again is kept (torch.Size, strings): a reader that misses something else runs the pickle once more, without this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from convsvc.formats.base import Global
from convsvc.formats.pickle.machine import Machine

_GET = rb"(?:h.|j.{4})"
_INT = rb"(?:K.|M..|J.{4}|\x8a(?:\x04.{4}|\x05.{5}|\x06.{6}|\x07.{7}))"
_TEXT = rb"(" + _GET + rb"|\x8c.[\x20-\x7e]*\x94)"
# torch.Size of up to three numbers: REDUCE of the class and a tuple of a tuple, all of them memoised but an empty tuple.
_SIZE = rb"(" + _GET + rb"(?:(?:" + _INT + rb"{1,3}[\x85-\x87]\x94|\))\x85\x94R\x94)?)"
_KEY = rb"(" + _GET + rb")"
_BEGIN, _END = rb"\x94}\x94\(", rb"ub"
_CHUNK = re.compile(_BEGIN + _KEY + _SIZE + _KEY + _SIZE + _END, re.DOTALL)
_PLACE = re.compile(
    _BEGIN + _KEY + _TEXT + _KEY + rb"(K.|M..|J.{4}|N)" + _KEY + _SIZE + _END
    + _KEY + rb"\)\x81" + _BEGIN + _KEY + _TEXT + _KEY + rb"(" + _INT + rb")" + _KEY + rb"(" + _INT + rb")" + _END,
    re.DOTALL,
)  # fmt: skip
_INTS = re.compile(_INT, re.DOTALL)
_INDEX_FIELDS, _PLACE_FIELDS = ("fqn", "index", "offset"), ("relative_path", "offset", "length")


class Fused:
    """A step for NEWOBJ. `make_chunk(offsets, sizes)`, `make_index(fqn, offset)`, `make_place(path, offset, length)` make the objects.

    `chunk`, `index` and `place` are the classes' (module, name).
    """

    def __init__(
        self,
        call: Callable[[Machine], None],
        classes: Mapping[str, tuple[str, str]],
        make: Mapping[str, Callable[..., Any]],
    ) -> None:
        self._call, self._make, self._place = call, make, classes["place"]
        self._steps = {classes["chunk"]: self._chunk, classes["index"]: self._index}
        self._sizes: dict[bytes, tuple[int, ...]] = {}

    def __call__(self, machine: Machine) -> None:
        stack = machine.stack
        if len(stack) - 2 >= (machine.marks[-1] if machine.marks else 0) and stack[-1] == () and type(stack[-2]) is Global:
            step = self._steps.get((stack[-2].module, stack[-2].name))
            if step is not None and step(machine):
                return
        self._call(machine)

    def _chunk(self, machine: Machine) -> bool:
        match = _CHUNK.match(machine.data, machine.position)
        if match is None:
            return False
        first, offsets, second, sizes = match.groups()
        memo = machine.memo
        if (memo[_number(first)], memo[_number(second)]) != ("offsets", "sizes"):
            return False
        cursor = _Cursor(machine)
        made = self._make["chunk"](self._size(cursor, offsets), self._size(cursor, sizes))
        machine.stack[-2:] = [made]
        cursor.finish(match.end())
        return True

    def _index(self, machine: Machine) -> bool:
        match = _PLACE.match(machine.data, machine.position)
        if match is None:
            return False
        k1, fqn, k2, _, k3, offset, place, k4, path, k5, first, k6, length = match.groups()
        memo = machine.memo
        named = memo[_number(place)]
        fields = memo[_number(k1)], memo[_number(k2)], memo[_number(k3)]
        others = memo[_number(k4)], memo[_number(k5)], memo[_number(k6)]
        is_place = type(named) is Global and (named.module, named.name) == self._place
        if fields != _INDEX_FIELDS or others != _PLACE_FIELDS or not is_place or not (_fits(fqn) and _fits(path)):
            return False
        cursor = _Cursor(machine)
        index = self._make["index"](_text(cursor, fqn), self._size(cursor, offset))
        cursor.skip(2)
        machine.stack[-2:] = [index, self._make["place"](_text(cursor, path), _integer(first), _integer(length))]
        cursor.finish(match.end())
        return True

    def _size(self, cursor: _Cursor, data: bytes) -> Any:
        """The tuple that a torch.Size is here."""
        head = 2 if data[0] == 0x68 else 5
        found = cursor.memo[_number(data)]
        if len(data) == head:
            return found
        if type(found) is not Global or (found.module, found.name) != ("torch", "Size"):
            raise KeyError("a chunk's size that is none")
        body = data[head:]
        size = self._sizes.get(body)
        if size is None:
            size = self._sizes[body] = _tuple(body)
        cursor.skip(2 if size else 1)
        return cursor.keep(size)


class _Cursor:
    """Where the memo stands: a new object and its state's dict take the first two numbers."""

    __slots__ = ("_machine", "_next", "_skipped", "memo")

    def __init__(self, machine: Machine) -> None:
        self._machine, self.memo = machine, machine.memo
        self._next = len(machine.memo) + machine.skipped + 2
        self._skipped = machine.skipped + 2

    def skip(self, count: int) -> None:
        self._next += count
        self._skipped += count

    def keep(self, value: Any) -> Any:
        self.memo[self._next] = value
        self._next += 1
        return value

    def finish(self, position: int) -> None:
        self._machine.skipped, self._machine.position = self._skipped, position


def _number(get: bytes) -> int:
    """The memo's number that BINGET or LONG_BINGET asks for; what follows is not looked at."""
    return get[1] if get[0] == 0x68 else int.from_bytes(get[1:5], "little")


def _integer(data: bytes) -> int:
    code = data[0]
    if code in (0x4B, 0x4D):  # BININT1, BININT2
        return int.from_bytes(data[1:], "little")
    return int.from_bytes(data[1:] if code == 0x4A else data[2:], "little", signed=True)  # BININT, LONG1


def _fits(text: bytes) -> bool:
    """Whether a string that is written out is as long as it says: its end was found by the opcode that follows."""
    return text[0] != 0x8C or text[1] == len(text) - 3


def _text(cursor: _Cursor, data: bytes) -> Any:
    return cursor.keep(data[2:-1].decode()) if data[0] == 0x8C else cursor.memo[_number(data)]


def _tuple(body: bytes) -> tuple[int, ...]:
    """The numbers before TUPLE1, TUPLE2 or TUPLE3, which must be as many; or none, before the five opcodes that end a torch.Size."""
    if body[0] == 0x29:  # EMPTY_TUPLE
        return ()
    size = tuple(map(_integer, _INTS.findall(body[:-6])))
    if body[-6] != 0x84 + len(size):
        raise KeyError("a tuple of another length")
    return size
