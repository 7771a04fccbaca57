"""Hostile files from literal bytes."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from convsvc.errors import FormatError
from convsvc.formats.torch_zip import read_index


@pytest.fixture
def pt_with(tmp_path: Path) -> Callable[..., Path]:
    """A torch zip file with this data.pkl and these storages, made by zipfile."""

    def write(pickle: bytes, compression: int = zipfile.ZIP_STORED, **storages: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
            archive.writestr("model/data.pkl", pickle)
            archive.writestr("model/byteorder", b"little")
            for name, data in storages.items():
                archive.writestr(f"model/data/{name.removeprefix('_')}", data, compress_type=compression)
        return tmp_path / "model.pt"

    return write


@pytest.fixture
def refused(pt_with: Callable[..., Path]) -> Callable[..., FormatError]:
    """Read a file with this pickle and give back the error, which must name the file."""

    def refuse(pickle: bytes, kind: type[FormatError] = FormatError, **storages: bytes) -> FormatError:
        path = pt_with(pickle, **storages)
        with pytest.raises(kind) as caught:
            read_index(path)
        assert str(path) in str(caught.value)
        return caught.value

    return refuse


@pytest.fixture
def safetensors_of(tmp_path: Path) -> Callable[..., Path]:
    """A safetensors file of a literal header and data."""

    def write(header: bytes, data: bytes = b"", size: int | None = None) -> Path:
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + data)
        return path

    return write
