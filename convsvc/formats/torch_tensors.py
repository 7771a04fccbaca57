"""How torch pickles a tensor: a storage named by its record, then offset, size and stride in it.

After `torch/_utils.py` (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`, `_rebuild_parameter`) and `torch/serialization.py`
(`persistent_id`) of torch 2.13; the same since torch 1.6, v3 since 2.1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convsvc.formats.base import Global, Inert
from convsvc.formats.pickle.machine import Builder
from convsvc.formats.pickle.reader import read_pickle
from convsvc.tensors.dtypes import SIZES

# safetensors tag -> (storage class, torch dtype). Dtypes without a storage class of their own lie in an UntypedStorage and are
# rebuilt by _rebuild_tensor_v3, which names the dtype (torch.storage._dtype_to_storage_type_map, _new_dtypes).
STORAGES: Mapping[str, str] = {
    "F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
    "I64": "LongStorage", "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage", "U8": "ByteStorage",
    "BOOL": "BoolStorage", "C64": "ComplexFloatStorage",
}  # fmt: skip
DTYPES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
_TAG_OF_STORAGE = {storage: tag for tag, storage in STORAGES.items()}
_TAG_OF_DTYPE = {dtype: tag for tag, dtype in DTYPES.items()}
_MAX_AXES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A persistent id: record `data/<key>` of `numel` elements of `dtype` (None for a type that is none of ours)."""

    type_name: str
    dtype: str | None
    key: str
    numel: int


@dataclass(frozen=True, slots=True, eq=False)
class Strided:
    """A tensor as pickled: a view of a storage, in elements. `dtype` is a tag, or torch's name of a type that is none of ours."""

    storage: Storage
    storage_offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    has_lazy_bits: bool = False

    def place(self) -> tuple[int, int]:
        """First byte and size in bytes within the storage.

        Raises ValueError, in words, for what is not a row-major tensor of a known dtype inside its storage.
        """
        if self.dtype not in SIZES:
            raise ValueError(f"has the dtype {self.dtype}; known are {', '.join(DTYPES.values())}")
        if self.has_lazy_bits:
            raise ValueError("is a conjugated or negated view; save it after .resolve_conj().resolve_neg()")
        count, strides = _row_major(self.shape)
        if count and any(size > 1 and a != b for size, a, b in zip(self.shape, self.strides, strides, strict=True)):
            raise ValueError(f"is not row-major: shape {list(self.shape)}, strides {list(self.strides)}; save it after .contiguous()")
        item = SIZES[self.dtype]
        first = self.storage_offset * item if count else 0
        storage_bytes = self.storage.numel * SIZES[self.storage.dtype or "U8"]
        if first + count * item > storage_bytes:
            raise ValueError(f"takes {count * item} bytes from byte {first} on, its storage has {storage_bytes}")
        return first, count * item


def read_torch_pickle(data: bytes, source: str) -> Any:
    """The object of a `data.pkl`, with a `Strided` for each tensor. Pure.

    Raises HostileFile, FormatError as `read_pickle` does.
    """
    return read_pickle(data, source, _BUILDERS, _persistent_load)


def _persistent_load(pid: Any) -> Storage:
    """The storage of ("storage", type, key, location, numel): all that torch.save writes as a persistent id."""
    if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
        raise TypeError("a persistent id that is not a storage")
    _, kind, key, _, numel = pid
    is_key = type(key) is str and 0 < len(key) <= 100 and "/" not in key
    if type(kind) is not Global or not kind.module.startswith("torch") or not is_key or not _are_counts((numel,)):
        raise TypeError("a storage that is not (type, key, location, number of elements)")
    dtype = "U8" if kind.name == "UntypedStorage" else _TAG_OF_STORAGE.get(kind.name)
    return Storage(kind.name, dtype, key, numel)


def _row_major(shape: tuple[int, ...]) -> tuple[int, list[int]]:
    """The number of elements, and the strides that lay them out in row-major order without gaps."""
    strides: list[int] = []
    count = 1
    for size in reversed(shape):
        strides.append(count)
        count *= size
    return count, strides[::-1]


def _are_counts(values: Any) -> bool:
    return type(values) is tuple and len(values) <= _MAX_AXES and all(type(item) is int and 0 <= item < 2**53 for item in values)


def _strided(args: tuple[Any, ...], dtype: str | None = None, metadata: Any = None) -> Strided:
    storage, storage_offset, shape, strides = args[:4]
    fits = type(storage) is Storage and _are_counts((storage_offset,)) and _are_counts(shape) and _are_counts(strides)
    if not fits or len(shape) != len(strides):
        raise TypeError("a tensor that is not (storage, offset, size, stride)")
    lazy = isinstance(metadata, dict) and any(metadata.values())
    return Strided(storage, storage_offset, shape, strides, dtype or storage.dtype or storage.type_name, lazy)


def _tensor_v2(args: tuple[Any, ...]) -> Strided:
    # storage, offset, size, stride, requires_grad, hooks, metadata; the oldest form has the first four
    return _strided(args, metadata=args[6] if len(args) > 6 else None)


def _tensor_v3(args: tuple[Any, ...]) -> Strided:
    # ..., requires_grad, hooks, dtype, metadata
    dtype = args[6]
    if type(dtype) is not Global or dtype.module != "torch":
        raise TypeError("a tensor whose dtype is none of torch's")
    return _strided(args, _TAG_OF_DTYPE.get(dtype.name, f"torch.{dtype.name}"), args[7] if len(args) > 7 else None)


def _parameter(args: tuple[Any, ...]) -> Any:
    # data, requires_grad, hooks (, state): the attributes of a parameter are of no use here
    return args[0]


def _from_type(args: tuple[Any, ...]) -> Any:
    # torch._tensor._rebuild_from_type_v2(function, type, args, state): a tensor with attributes of its own
    function, _, inner, _ = args
    builder = _TENSOR_BUILDERS.get((function.module, function.name)) if type(function) is Global else None
    return builder(inner) if builder and type(inner) is tuple else Inert("torch._tensor", "_rebuild_from_type_v2", args)


def _ordered_dict(args: tuple[Any, ...]) -> Any:
    pairs = args[0] if args else []
    if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise TypeError("an OrderedDict that is not made of pairs")
    if not all(type(key) is str for key, _ in pairs):
        raise TypeError("an OrderedDict of pairs whose keys are not strings")
    return OrderedDict(pairs)


def _size(args: tuple[Any, ...]) -> Any:
    return tuple(args[0]) if args and type(args[0]) in (list, tuple) else ()


def _encoded(args: tuple[Any, ...]) -> Any:
    # Protocol 2 has no bytes: they are written as _codecs.encode(text, "latin1").
    if len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1"):
        return args[0].encode("latin-1")
    return Inert("_codecs", "encode", args)


def _default_dict(args: tuple[Any, ...]) -> Any:
    return {}


def _bytes(args: tuple[Any, ...]) -> Any:
    return b"" if not args else Inert("builtins", "bytes", args)


_TENSOR_BUILDERS: dict[tuple[str, str], Builder] = {
    ("torch._utils", "_rebuild_tensor"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
}
_BUILDERS: dict[tuple[str, str], Builder] = {
    **_TENSOR_BUILDERS,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "defaultdict"): _default_dict,
    ("_codecs", "encode"): _encoded,
    ("builtins", "bytes"): _bytes,
}
