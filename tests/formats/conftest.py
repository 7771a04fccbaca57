"""Writing a planned file the way a worker does: segments, tensors in any order, then the seal."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch

from convsvc.formats import Format
from convsvc.formats.base import Skeleton

TORCH_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip

Writer = Callable[[Path, Format, Skeleton, Mapping[str, bytes]], None]


@pytest.fixture(scope="session")
def torch_dtypes() -> dict[str, torch.dtype]:
    """Every tag of a dtype that torch has, with torch's name for it."""
    return TORCH_DTYPES


@pytest.fixture(scope="session")
def write_planned() -> Writer:
    """Write a skeleton's file with these bytes for its tensors, last tensor first; checksums by zlib, not by our own code."""

    def write(path: Path, format_: Format, skeleton: Skeleton, contents: Mapping[str, bytes]) -> None:
        with path.open("wb") as file:
            file.truncate(skeleton.size_bytes)
            _write_all(file, skeleton.segments)
            for tensor in reversed(skeleton.tensors):
                assert len(contents[tensor.name]) == tensor.size_bytes
                _write_all(file, [(tensor.file_offset, contents[tensor.name])])
            _write_all(file, format_.seal(skeleton, {name: zlib.crc32(data) for name, data in contents.items()}))
        assert path.stat().st_size == skeleton.size_bytes

    return write


@pytest.fixture(scope="session")
def bits_of() -> Callable[[torch.Tensor], bytes]:
    """A tensor's bytes, row-major: bf16 may hold NaN, so that values cannot be compared."""

    def bits(tensor: torch.Tensor) -> bytes:
        return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    return bits


@pytest.fixture(scope="session")
def tensor_of() -> Callable[[str, tuple[int, ...], bytes], torch.Tensor]:
    """The torch tensor with these bytes."""

    def tensor(tag: str, shape: tuple[int, ...], data: bytes) -> torch.Tensor:
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        return flat.view(TORCH_DTYPES[tag]).reshape(shape)

    return tensor


def _write_all(file: object, parts: Iterable[tuple[int, bytes]]) -> None:
    for offset, data in parts:
        file.seek(offset)  # type: ignore[attr-defined]
        file.write(data)  # type: ignore[attr-defined]
