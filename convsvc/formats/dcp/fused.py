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
_MOST_TEXTS = 4096
_INDEX_FIELDS, _PLACE_FIELDS = ("fqn", "index", "offset"), ("relative_path", "offset", "length")


class Fused:
    """A step for NEWOBJ. `make_chunk(offsets, sizes)`, `make_index(fqn, offset)`, `make_place(path, offset, length)` make the objects.

    `chunk`, `index` and `place` are the classes' (module, name). One step makes all objects that follow each other: a tensor's chunks, a
    thousand places.
    """

    def __init__(
        self,
        call: Callable[[Machine], None],
        classes: Mapping[str, tuple[str, str]],
        make: Mapping[str, Callable[..., Any]],
    ) -> None:
        self._call, self._make, self._place = call, make, classes["place"]
        self._steps = {classes["chunk"]: self._chunks, classes["index"]: self._indices}
        self._sizes: dict[bytes, tuple[int, ...]] = {}
        self._texts: dict[bytes, str] = {}

    def __call__(self, machine: Machine) -> None:
        stack = machine.stack
        if len(stack) - 2 >= (machine.marks[-1] if machine.marks else 0) and stack[-1] == () and type(stack[-2]) is Global:
            step = self._steps.get((stack[-2].module, stack[-2].name))
            if step is not None and step(machine):
                return
        self._call(machine)

    def _chunks(self, machine: Machine) -> bool:
        data, memo, cursor, make = machine.data, machine.memo, _Cursor(machine), self._make["chunk"]
        made: list[Any] = []
        checked: tuple[bytes, bytes] | None = None
        while match := _CHUNK.match(data, cursor.position):
            first, offsets, second, sizes = match.groups()
            if (first, second) != checked:
                if (memo[_number(first)], memo[_number(second)]) != ("offsets", "sizes"):
                    break
                checked = first, second
            cursor.next += 2
            made.append(make(self._size(cursor, offsets), self._size(cursor, sizes)))
            if not cursor.goes_on(match.end()):
                break
        return cursor.finish(made)

    def _indices(self, machine: Machine) -> bool:
        data, cursor, texts = machine.data, _Cursor(machine), self._texts
        make_index, make_place = self._make["index"], self._make["place"]
        made: list[Any] = []
        checked: tuple[bytes, ...] | None = None
        while match := _PLACE.match(data, cursor.position):
            k1, fqn, k2, _, k3, offset, place, k4, path, k5, first, k6, length = match.groups()
            keys = k1, k2, k3, place, k4, k5, k6
            if keys != checked:
                if not self._are_fields(machine.memo, keys):
                    break
                checked = keys
            if not (_fits(fqn) and _fits(path)):
                break
            cursor.next += 2
            index = make_index(_text(cursor, fqn, texts), self._size(cursor, offset))
            cursor.next += 2
            made += index, make_place(_text(cursor, path, texts), _integer(first), _integer(length))
            if not cursor.goes_on(match.end()):
                break
        return cursor.finish(made)

    def _are_fields(self, memo: Mapping[int, Any], keys: tuple[bytes, ...]) -> bool:
        """Whether these fetch the names of the fields of an index, the class of a place, and the names of its fields."""
        k1, k2, k3, named, k4, k5, k6 = [memo[_number(key)] for key in keys]
        is_place = type(named) is Global and (named.module, named.name) == self._place
        return is_place and (k1, k2, k3) == _INDEX_FIELDS and (k4, k5, k6) == _PLACE_FIELDS

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
        number = cursor.next + (2 if size else 1)
        cursor.memo[number] = size
        cursor.next = number + 1
        cursor.kept += 1
        return size


class _Cursor:
    """Where the machine stands while it is passed over: `next` is the memo's next number, of those taken `kept` were kept."""

    __slots__ = ("_again", "_began", "_machine", "kept", "memo", "next", "position", "reached")

    def __init__(self, machine: Machine) -> None:
        self._machine, self.memo = machine, machine.memo
        self.next = self._began = len(machine.memo) + machine.skipped
        self.position = self.reached = machine.position
        self.kept = 0
        self._again = _again(machine)

    def goes_on(self, position: int) -> bool:
        """An object ends at a position; whether another of its class follows there, which then is where the cursor stands."""
        self.reached = position
        if self._again is None or not self._machine.data.startswith(self._again, position):
            return False
        self.position = position + len(self._again)
        return True

    def finish(self, made: list[Any]) -> bool:
        """Leaves the machine behind what was made, in the place of the first one's class and arguments; whether anything was."""
        if not made:
            return False
        machine = self._machine
        machine.stack[-2:] = made
        machine.skipped += self.next - self._began - self.kept
        machine.position = self.reached
        return True


def _again(machine: Machine) -> bytes | None:
    """The opcodes with which the object begins whose NEWOBJ was just met, if they fetch its class from the memo: the next begins so."""
    position = machine.position  # behind the fetching, EMPTY_TUPLE and NEWOBJ
    for size in (4, 7):
        opcodes = machine.data[max(0, position - size) : position]
        if len(opcodes) == size and opcodes[0] == (0x68 if size == 4 else 0x6A) and opcodes[-2:] == b")\x81":
            found = machine.memo.get(_number(opcodes))
            if found is machine.stack[-2]:
                return opcodes
    return None


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


def _text(cursor: _Cursor, data: bytes, known: dict[bytes, str]) -> Any:
    if data[0] != 0x8C:
        return cursor.memo[_number(data)]
    text = known.get(data)
    if text is None:
        if len(known) >= _MOST_TEXTS:  # a name comes again and again for a while
            known.clear()
        text = known[data] = data[2:-1].decode()
    cursor.memo[cursor.next] = text
    cursor.next += 1
    cursor.kept += 1
    return text


def _tuple(body: bytes) -> tuple[int, ...]:
    """The numbers before TUPLE1, TUPLE2 or TUPLE3, which must be as many; or none, before the five opcodes that end a torch.Size."""
    if body[0] == 0x29:  # EMPTY_TUPLE
        return ()
    size = tuple(map(_integer, _INTS.findall(body[:-6])))
    if body[-6] != 0x84 + len(size):
        raise KeyError("a tuple of another length")
    return size
