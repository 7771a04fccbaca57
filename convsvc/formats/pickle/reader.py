"""Reading a pickle without running it.

Our own interpreter of the opcodes, not a subclass of `pickle.Unpickler`: the standard one calls whatever `find_class` gives it,
sets attributes on whatever stands on the stack, and allocates what the file says (a memo of 2**32 entries, an integer of a
gigabyte). Here no opcode can call anything but the few builders passed in, every object is one of a closed set of types, and work
and memory are bounded by the length of the data and by `Limits`. A rank file's pickle has a few thousand opcodes, so that the
loss of the C implementation's speed (about 1 microsecond an opcode) is nothing.

Opcodes after `pickletools` of CPython 3.13, protocols 2 to 5; those of protocols 0 and 1 which torch.save never wrote are errors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from convsvc.errors import FormatError
from convsvc.formats.pickle.machine import LIMITS, Builder, Limits, Machine


def read_pickle(
    data: bytes,
    source: str,
    builders: Mapping[tuple[str, str], Builder],
    persistent_load: Callable[[Any], Any],
    limits: Limits = LIMITS,
    steps: Mapping[int, Callable[[Machine], None]] = MappingProxyType({}),
) -> Any:
    """The object in `data`: plain containers and values, Namespaces, `Inert` records, and what `builders` make. Pure.

    `builders` maps (module, name) to what is called with the pickled arguments instead of that function; `persistent_load` gets
    persistent ids. `source` is the file's name, for errors. `steps` are others for some opcodes than the machine's own.

    >>> read_pickle(b"\\x80\\x02}X\\x01\\x00\\x00\\x00aK\\x01s.", "x.pt", {}, id)
    {'a': 1}

    Raises HostileFile for a pickle which names what runs code, FormatError for one that is damaged or over the limits.
    """
    if len(data) > limits.size_bytes:
        raise FormatError(f"the pickle of {source} has {len(data)} bytes, at most {limits.size_bytes} are read")
    machine = Machine(data, source, builders, persistent_load, limits)
    try:
        return machine.run({**_OPCODES, **steps} if steps else _OPCODES)
    except FormatError:
        raise
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error, RecursionError) as error:
        # Stack underflow, unknown memo numbers, wrong types: every such file is damaged or made to be.
        raise machine.damaged(f"{type(error).__name__}: {str(error)[:80]}") from None


def _text(machine: Machine, size: int) -> None:
    start = machine.position + size
    stop = start + int.from_bytes(machine.data[machine.position : start], "little")
    if stop > len(machine.data):
        raise machine.damaged("a string longer than the pickle")
    machine.stack.append(machine.data[start:stop].decode("utf-8", "surrogatepass"))
    machine.position = stop


def _integer(machine: Machine, size: int) -> None:
    length = machine.number(size)
    if length > machine.limits.integer_bytes:
        raise machine.damaged(f"an integer of {length} bytes")
    machine.push(int.from_bytes(machine.take(length), "little", signed=True))


def call_object(machine: Machine) -> None:
    """REDUCE and NEWOBJ."""
    function, args = machine.pop_many(2)
    machine.push(machine.call(function, args))


def _call_with_keywords(machine: Machine) -> None:
    function, args, keywords = machine.pop_many(3)
    if type(keywords) is not dict or type(args) is not tuple:
        raise machine.damaged("keyword arguments that are not a dict")
    machine.charge(args)
    machine.push(machine.call(function, (*args, keywords) if keywords else args))


def _instance(machine: Machine) -> None:
    machine.name_global(machine.line(), machine.line())  # hostile names are called by their name
    raise machine.damaged("opcode INST, which torch.save does not write")


def _build(machine: Machine) -> None:
    state = machine.pop()
    machine.build(machine.stack[-1], state)


def _update(machine: Machine, items: list[Any]) -> None:
    machine.update(machine.stack[-1], items)


def _extend(machine: Machine, items: list[Any]) -> None:
    machine.extend(machine.stack[-1], items)


def _add(machine: Machine) -> None:
    items = machine.since_mark()
    if type(machine.stack[-1]) is not set:
        raise machine.damaged("it adds to what is no set")
    machine.stack[-1].update([machine.key(item) for item in items])


def _dict(machine: Machine) -> None:
    items = machine.since_mark()
    machine.push({})
    machine.update(machine.stack[-1], items)


def _pop(machine: Machine) -> None:
    if machine.marks and len(machine.stack) == machine.marks[-1]:
        machine.marks.pop()
    else:
        machine.stack.pop()


# The three opcodes of which most pickles mostly consist.
def _small_integer(machine: Machine) -> None:
    machine.stack.append(machine.data[machine.position])
    machine.position += 1


def _get(machine: Machine) -> None:
    machine.stack.append(machine.memo[machine.data[machine.position]])
    machine.position += 1


def _put(machine: Machine) -> None:
    machine.memo[machine.data[machine.position]] = machine.stack[-1]
    machine.position += 1


_OPCODES: dict[int, Callable[[Machine], Any]] = {
    # the frame of a pickle
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): lambda m: m.marks.append(len(m.stack)),  # MARK
    ord("0"): _pop,  # POP
    ord("1"): lambda m: m.since_mark(),  # POP_MARK
    ord("2"): lambda m: m.push(m.stack[-1]),  # DUP
    # plain values
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),  # BININT
    ord("K"): _small_integer,  # BININT1
    ord("M"): lambda m: m.push(m.number(2)),  # BININT2
    0x8A: lambda m: _integer(m, 1),  # LONG1
    0x8B: lambda m: _integer(m, 4),  # LONG4
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    ord("X"): lambda m: _text(m, 4),  # BINUNICODE
    0x8C: lambda m: _text(m, 1),  # SHORT_BINUNICODE
    0x8D: lambda m: _text(m, 8),  # BINUNICODE8
    ord("U"): lambda m: m.push(m.take(m.number(1)).decode("latin-1")),  # SHORT_BINSTRING, of Python 2
    ord("T"): lambda m: m.push(m.take(m.number(4)).decode("latin-1")),  # BINSTRING, of Python 2
    ord("C"): lambda m: m.push(m.take(m.number(1))),  # SHORT_BINBYTES
    ord("B"): lambda m: m.push(m.take(m.number(4))),  # BINBYTES
    0x8E: lambda m: m.push(m.take(m.number(8))),  # BINBYTES8
    0x96: lambda m: m.push(m.take(m.number(8))),  # BYTEARRAY8
    # containers
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push({}),
    ord(")"): lambda m: m.push(()),
    0x8F: lambda m: m.push(set()),  # EMPTY_SET
    ord("l"): lambda m: m.push(m.since_mark()),  # LIST
    ord("t"): lambda m: m.push(tuple(m.since_mark())),  # TUPLE
    0x85: lambda m: m.push(m.pop_many(1)),  # TUPLE1
    0x86: lambda m: m.push(m.pop_many(2)),  # TUPLE2
    0x87: lambda m: m.push(m.pop_many(3)),  # TUPLE3
    ord("d"): _dict,  # DICT
    0x91: lambda m: m.push(frozenset([m.key(item) for item in m.since_mark()])),  # FROZENSET
    ord("a"): lambda m: _extend(m, [m.pop()]),  # APPEND
    ord("e"): lambda m: _extend(m, m.since_mark()),  # APPENDS
    ord("s"): lambda m: _update(m, list(m.pop_many(2))),  # SETITEM
    ord("u"): lambda m: _update(m, m.since_mark()),  # SETITEMS
    0x90: _add,  # ADDITEMS
    # the memo
    ord("h"): _get,  # BINGET
    ord("j"): lambda m: m.push(m.memo[m.number(4)]),  # LONG_BINGET
    ord("q"): _put,  # BINPUT
    ord("r"): lambda m: m.remember(m.number(4)),  # LONG_BINPUT
    0x94: Machine.memoize,  # MEMOIZE
    # objects
    ord("c"): lambda m: m.name_global(m.line(), m.line()),  # GLOBAL
    ord("i"): _instance,  # INST
    0x93: lambda m: m.name_global(*m.pop_many(2)),  # STACK_GLOBAL
    ord("R"): call_object,  # REDUCE
    0x81: call_object,  # NEWOBJ
    0x92: _call_with_keywords,  # NEWOBJ_EX
    ord("b"): _build,  # BUILD
    ord("Q"): lambda m: m.push(m.persistent_load(m.pop())),  # BINPERSID
}
