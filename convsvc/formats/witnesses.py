"""The readers that users have, of what is written here: safetensors and torch. For witnesses alone, never for the bytes that are converted.

A tensor has `dtype`, `shape` and `crc()`. No pickle is run that names anything but tensors and a Namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

# What mapping a file says that is larger than the machine's memory: no fault of the file, which is then asked for its headers alone.
NO_MEMORY = "Cannot allocate memory"


class _Sliced:
    """A tensor of a safetensors file."""

    def __init__(self, path: str, file: Any, name: str) -> None:
        self._path, self._name = path, name
        part = file.get_slice(name)
        self.dtype, self.shape = part.get_dtype(), list(part.get_shape())

    def crc(self) -> int | None:
        """CRC-32 of the values; None where they are not looked at."""
        from safetensors import safe_open

        try:
            file: Any = safe_open(self._path, framework="pt")
            return _crc(file.get_tensor(self._name))
        except RuntimeError as error:
            if NO_MEMORY in str(error):
                return None
            raise


class _Loaded:
    """A tensor that torch has mapped, or (`has_values` false) knows of without its values."""

    def __init__(self, tensor: Any, has_values: bool) -> None:
        self._tensor, self._has_values = tensor, has_values
        self.dtype, self.shape = DTYPES.get(str(tensor.dtype), str(tensor.dtype)), list(tensor.shape)

    def crc(self) -> int | None:
        """CRC-32 of the values; None where they are not looked at."""
        return _crc(self._tensor) if self._has_values else None


class _InItem:
    """A tensor that is an item of a `.distcp` file."""

    def __init__(self, path: str, *place: int) -> None:
        self._path, self._place = path, place
        tensor = _load_item(path, *place)
        self.dtype, self.shape = DTYPES.get(str(tensor.dtype), str(tensor.dtype)), list(tensor.shape)

    def crc(self) -> int | None:
        """CRC-32 of the values."""
        return _crc(_load_item(self._path, *self._place))


# torch's names of the types, and safetensors'.
DTYPES = {
    "torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32", "torch.float64": "F64", "torch.bool": "BOOL",
    "torch.uint8": "U8", "torch.uint16": "U16", "torch.uint32": "U32", "torch.uint64": "U64", "torch.complex64": "C64",
    "torch.int8": "I8", "torch.int16": "I16", "torch.int32": "I32", "torch.int64": "I64",
    "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2", "torch.float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip


def _crc(tensor: Any) -> int:
    import zlib

    import torch

    return zlib.crc32(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def open_safetensors(path: str) -> dict[str, Any]:
    from safetensors import safe_open

    # Headers are asked for by way of numpy: for torch, the whole file is mapped privately.
    file: Any = safe_open(path, framework="numpy")
    return {name: _Sliced(path, file, name) for name in file.keys()}  # noqa: SIM118  it is no dict


def open_torch(path: str) -> dict[str, Any]:
    from argparse import Namespace

    import torch

    # The saved args are a Namespace of plain values.
    torch.serialization.add_safe_globals([Namespace])
    try:
        return dict(_tensors(torch.load(path, map_location="cpu", mmap=True, weights_only=True)))
    except RuntimeError as error:
        if NO_MEMORY not in str(error):
            raise
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():  # then torch reads no values, and maps nothing
        return dict(_tensors(torch.load(path, map_location="cpu", weights_only=True), has_values=False))


def open_distcp(path: str) -> dict[str, Any]:
    """The items that `.metadata` beside a file says lie in it, loaded as torch's own FileSystemReader loads them."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from convsvc.formats.dcp.metadata import read_metadata
    from convsvc.formats.dcp.records import METADATA

    folder, name = os.path.split(path)
    tensors = read_metadata(f"{folder}/{METADATA}").tensors
    items = {key: chunk.item for key, each in tensors.items() for chunk in each.chunks if chunk.item and chunk.item.file == name}
    with FakeTensorMode():  # then torch reads no values
        return {key: _InItem(path, item.file_offset, item.size_bytes) for key, item in items.items()}


def _load_item(path: str, file_offset: int, size_bytes: int) -> Any:
    import torch
    from torch.distributed.checkpoint.utils import _create_file_view

    with open(path, "rb") as file:
        return torch.load(_create_file_view(file, file_offset, size_bytes), map_location="cpu", weights_only=True)


def _tensors(tree: Any, prefix: str = "", has_values: bool = True) -> Iterator[tuple[str, Any]]:
    """Tensors by their path in the tree, joined by "/"."""
    import torch

    if isinstance(tree, torch.Tensor):
        yield prefix.removesuffix("/"), _Loaded(tree, has_values)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from _tensors(value, f"{prefix}{name}/", has_values)
    elif isinstance(tree, list | tuple):
        for at, value in enumerate(tree):
            yield from _tensors(value, f"{prefix}{at}/", has_values)
