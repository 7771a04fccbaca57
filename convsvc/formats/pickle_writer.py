"""Writing the pickle of a torch file: protocol 2, the opcodes and the shape which torch.save itself emits.

Only what `torch.load(weights_only=True)` reads, of torch 2.1 to 2.13: its unpickler knows some twenty opcodes
(`torch/_weights_only_unpickler.py`), no LONG4 and no bytes among them.
"""

from __future__ import annotations

import struct
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from convsvc.errors import TargetError
from convsvc.formats.base import Global, TensorSpec
from convsvc.formats.torch_tensors import DTYPES, STORAGES

MAX_DEPTH = 100
_BATCH = 1000  # items in one SETITEMS or APPENDS, as pickle.py does


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
    """Opcodes so far, which strings and globals are in the memo, and the tensors met."""

    __slots__ = ("memo", "parts", "tensors")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.memo: dict[bytes, int] = {}
        self.tensors: list[tuple[str, TensorSpec]] = []

    def value(self, value: Any, path: tuple[str, ...]) -> None:
        if len(path) > MAX_DEPTH:
            raise _refused(path, f"is nested deeper than {MAX_DEPTH}, or contains itself")
        if isinstance(value, TensorSpec):
            self._tensor(value, path)
        elif isinstance(value, Mapping):
            self._dict(value, path)
        elif isinstance(value, Namespace):
            self._namespace(value, path)
        elif isinstance(value, list):
            self._list(value, path)
        elif isinstance(value, tuple):
            self._tuple(value, path)
        else:
            self._plain(value, path)

    def _plain(self, value: Any, path: tuple[str, ...]) -> None:
        if value is None or isinstance(value, bool):
            self.parts.append({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._integer(int(value), path)
        elif isinstance(value, float):
            self.parts.append(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self._text(str(value))
        elif type(value) is Global and value.module == "torch" and value.name in DTYPES.values():
            self._global("torch", value.name)
        else:
            raise _refused(path, f"is a {type(value).__name__}, which torch.load(weights_only=True) does not read")

    def _integer(self, value: int, path: tuple[str, ...]) -> None:
        if 0 <= value < 1 << 8:
            self.parts.append(b"K" + struct.pack("<B", value))
        elif 0 <= value < 1 << 16:
            self.parts.append(b"M" + struct.pack("<H", value))
        elif -(1 << 31) <= value < 1 << 31:
            self.parts.append(b"J" + struct.pack("<i", value))
        else:
            size = value.bit_length() // 8 + 1
            if size > 255:
                raise _refused(path, f"is an integer of {size} bytes, a torch file takes 255")
            self.parts.append(b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True))

    def _text(self, value: str) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self._remembered(b"X" + struct.pack("<I", len(data)) + data)

    def _global(self, module: str, name: str) -> None:
        self._remembered(f"c{module}\n{name}\n".encode())

    def _remembered(self, opcodes: bytes) -> None:
        """Push what `opcodes` push; the second time from the memo."""
        number = self.memo.get(opcodes)
        if number is not None:
            self.parts.append(b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number))
            return
        number = self.memo[opcodes] = len(self.memo)
        self.parts += [opcodes, b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)]

    def _dict(self, value: Mapping[Any, Any], path: tuple[str, ...]) -> None:
        self.parts.append(b"}")
        items = list(value.items())
        for start in range(0, len(items), _BATCH):
            self.parts.append(b"(")
            for key, item in items[start : start + _BATCH]:
                if not isinstance(key, str | int):
                    raise _refused(path, f"has a key that is a {type(key).__name__}; keys are strings and integers")
                self._plain(key, path)
                self.value(item, (*path, str(key)))
            self.parts.append(b"u")

    def _namespace(self, value: Namespace, path: tuple[str, ...]) -> None:
        self._global("argparse", "Namespace")
        self.parts.append(b")\x81")
        self._dict(vars(value), path)
        self.parts.append(b"b")

    def _list(self, value: list[Any], path: tuple[str, ...]) -> None:
        self.parts.append(b"]")
        for start in range(0, len(value), _BATCH):
            self.parts.append(b"(")
            for number, item in enumerate(value[start : start + _BATCH], start):
                self.value(item, (*path, str(number)))
            self.parts.append(b"e")

    def _tuple(self, value: tuple[Any, ...], path: tuple[str, ...]) -> None:
        short = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value))
        self.parts += [] if short else [b"("]
        for number, item in enumerate(value):
            self.value(item, (*path, str(number)))
        self.parts.append(short or b"t")

    def _tensor(self, spec: TensorSpec, path: tuple[str, ...]) -> None:
        """torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()), or _v3 with the dtype at the end."""
        if spec.dtype not in DTYPES:
            raise _refused(path, f"({spec.name}) has the dtype {spec.dtype}, which torch does not know")
        typed = spec.dtype in STORAGES
        count = spec.size_bytes // TensorSpec("", spec.dtype, (1,)).size_bytes if typed else spec.size_bytes
        self._global("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self.parts.append(b"(")
        self._storage(spec, count, path)
        self._integer(0, path)
        self._tuple(spec.shape, path)
        self._tuple(_strides(spec.shape), path)
        self.parts.append(b"\x89")
        self._global("collections", "OrderedDict")
        self.parts.append(b")R")
        if not typed:
            self._global("torch", DTYPES[spec.dtype])
        self.parts.append(b"tR")
        self.tensors.append(("/".join(path), spec))

    def _storage(self, spec: TensorSpec, numel: int, path: tuple[str, ...]) -> None:
        self.parts.append(b"(")
        self._text("storage")
        if spec.dtype in STORAGES:
            self._global("torch", STORAGES[spec.dtype])
        else:
            self._global("torch.storage", "UntypedStorage")
        self._text(str(len(self.tensors)))
        self._text("cpu")
        self._integer(numel, path)
        self.parts.append(b"tQ")


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
