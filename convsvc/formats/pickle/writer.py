"""Writing the pickle of a torch file: protocol 2, the opcodes and the shape which torch.save itself emits.

Only what `torch.load(weights_only=True)` reads, of torch 2.1 to 2.13: its unpickler knows some twenty opcodes
(`torch/_weights_only_unpickler.py`), no LONG4 and no bytes among them.
"""

from __future__ import annotations

import struct
from argparse import Namespace
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any

from convsvc.errors import TargetError
from convsvc.formats.base import Global, TensorSpec
from convsvc.formats.torch_tensors import DTYPES, STORAGES
from convsvc.tensors.dtypes import SIZES

MAX_DEPTH = 100
_BATCH = 1000  # items in one SETITEMS or APPENDS, as pickle.py does
_SHORT_TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}
_DTYPE_NAMES = frozenset(DTYPES.values())


def write_torch_pickle(tree: Any) -> tuple[bytes, tuple[tuple[str, TensorSpec], ...]]:
    """The pickle of `tree`, and its tensors by path; tensor number i refers to the record `data/<i>`. Pure.

    Raises TargetError naming the path of what cannot be written.

    >>> data, tensors = write_torch_pickle({"model": {"w": TensorSpec("w", "F32", (2,))}})
    >>> tensors
    (('model/w', TensorSpec(name='w', dtype='F32', shape=(2,))),)
    """
    writer = _Writer()
    writer.value(tree, ())
    return b"\x80\x02" + b"".join(writer.parts) + b".", tuple(writer.tensors)


class _Writer:
    """Opcodes so far, which strings and globals are in the memo, and the tensors met.

    All tensors of a dtype have the same opcodes before and after the record's name: they are made once (`_around`). A plan of a
    thousand rank files writes a hundred thousand tensors.
    """

    __slots__ = ("frames", "memo", "parts", "tensors")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.memo: dict[bytes, int] = {}
        self.frames: dict[str, tuple[bytes, bytes, bytes]] = {}
        self.tensors: list[tuple[str, TensorSpec]] = []

    def value(self, value: Any, path: tuple[str, ...]) -> None:
        if len(path) > MAX_DEPTH:
            raise _refused(path, f"is nested deeper than {MAX_DEPTH}, or contains itself")
        if isinstance(value, TensorSpec):
            self._tensor(value, path)
        elif isinstance(value, Mapping):
            self._dict(value, path)
        elif isinstance(value, Namespace):
            self.parts += [self._global("argparse", "Namespace"), b")\x81"]
            self._dict(vars(value), path)
            self.parts.append(b"b")
        elif isinstance(value, list):
            self._list(value, path)
        elif isinstance(value, tuple):
            self._tuple(value, path)
        else:
            self.parts.append(self._plain(value, path))

    def _plain(self, value: Any, path: tuple[str, ...]) -> bytes:
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int) and value.bit_length() < 255 * 8:
            return pickled_integer(int(value))
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return self._text(str(value))
        if type(value) is Global and value.module == "torch" and value.name in _DTYPE_NAMES:
            return self._global("torch", value.name)
        kind = "integer of over 254 bytes" if isinstance(value, int) else type(value).__name__
        raise _refused(path, f"is of type {kind}, which torch.load(weights_only=True) does not read")

    def _text(self, value: str) -> bytes:
        return self._remembered(pickled_text(value))

    def _global(self, module: str, name: str) -> bytes:
        return self._remembered(f"c{module}\n{name}\n".encode())

    def _remembered(self, opcodes: bytes) -> bytes:
        """`opcodes`, which push a string or a global, and a note in the memo; the second time only a look at the memo."""
        number = self.memo.get(opcodes)
        if number is not None:
            return b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)
        number = self.memo[opcodes] = len(self.memo)
        return opcodes + (b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number))

    def _dict(self, value: Mapping[Any, Any], path: tuple[str, ...]) -> None:
        self.parts.append(b"}")
        items = list(value.items())
        for start in range(0, len(items), _BATCH):
            self.parts.append(b"(")
            for key, item in items[start : start + _BATCH]:
                if not isinstance(key, str | int):
                    raise _refused(path, f"has a key that is a {type(key).__name__}; keys are strings and integers")
                self.parts.append(self._plain(key, path))
                self.value(item, (*path, str(key)))
            self.parts.append(b"u")

    def _list(self, value: list[Any], path: tuple[str, ...]) -> None:
        self.parts.append(b"]")
        for start in range(0, len(value), _BATCH):
            self.parts.append(b"(")
            for number, item in enumerate(value[start : start + _BATCH], start):
                self.value(item, (*path, str(number)))
            self.parts.append(b"e")

    def _tuple(self, value: tuple[Any, ...], path: tuple[str, ...]) -> None:
        self.parts += [] if len(value) in _SHORT_TUPLES else [b"("]
        for number, item in enumerate(value):
            self.value(item, (*path, str(number)))
        self.parts.append(_SHORT_TUPLES.get(len(value), b"t"))

    def _tensor(self, spec: TensorSpec, path: tuple[str, ...]) -> None:
        """torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()), or _v3 with the dtype at the end.

        An untyped storage, which goes with _v3, counts its elements in bytes.
        """
        if spec.dtype not in DTYPES:
            raise _refused(path, f"({spec.name}) has the dtype {spec.dtype}, which torch does not know")
        numel = prod(spec.shape) * (1 if spec.dtype in STORAGES else SIZES[spec.dtype])
        before, between, after = self.frames.get(spec.dtype) or self._around(spec.dtype)
        self.parts += [
            before,
            pickled_text(str(len(self.tensors))),
            between,
            pickled_integer(numel),
            b"tQK\x00",
            _geometry(spec.shape),
            after,
        ]
        self.tensors.append(("/".join(path), spec))

    def _around(self, dtype: str) -> tuple[bytes, bytes, bytes]:
        """The opcodes before a record's name, between it and the number of elements, and after the strides.

        The first time they hold the globals, from then on the memo's numbers, which are made by asking twice.
        """
        first = self._frame(dtype)
        self.frames[dtype] = self._frame(dtype)
        return first

    def _frame(self, dtype: str) -> tuple[bytes, bytes, bytes]:
        typed = dtype in STORAGES
        before = self._global("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3") + b"((" + self._text("storage")
        before += self._global("torch", STORAGES[dtype]) if typed else self._global("torch.storage", "UntypedStorage")
        between = self._text("cpu")
        after = b"\x89" + self._global("collections", "OrderedDict") + b")R"
        after += b"" if typed else self._global("torch", DTYPES[dtype])
        return before, between, after + b"tR"


def pickled_text(value: str) -> bytes:
    """The opcode that pushes a string."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


_BININT1, _BININT2, _BININT = struct.Struct("<cB").pack, struct.Struct("<cH").pack, struct.Struct("<ci").pack


def pickled_integer(value: int) -> bytes:
    """The shortest opcode that pushes an integer."""
    if 0 <= value < 1 << 8:
        return _BININT1(b"K", value)
    if 0 <= value < 1 << 16:
        return _BININT2(b"M", value)
    if -(1 << 31) <= value < 1 << 31:
        return _BININT(b"J", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


@lru_cache(maxsize=4096)
def _geometry(shape: tuple[int, ...]) -> bytes:
    """The opcodes of a tensor's size and stride."""
    ending = _SHORT_TUPLES.get(len(shape), b"t")
    opening = b"" if len(shape) in _SHORT_TUPLES else b"("
    return b"".join(opening + b"".join(map(pickled_integer, numbers)) + ending for numbers in (shape, _strides(shape)))


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides as torch gives them, which counts an axis of no elements as one."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _refused(path: tuple[str, ...], fact: str) -> TargetError:
    return TargetError(f"a torch file cannot hold {'/'.join(path) or 'this'}: it {fact}")
