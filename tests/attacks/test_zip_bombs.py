"""A small file that is to become a large one, or endless, in whoever unpacks it.

What stops it: nothing is ever unpacked. A record is used where it is stored in the file, once, and only if it is not compressed.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from convsvc.errors import FormatError
from convsvc.formats.torch_zip import read_index
from tests.security.fuzz.zips import pack

EMPTY = b"\x80\x02}."
GIB = 1 << 30


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Every attack here ends within ten seconds of processor time and 32 MiB."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def refused(path: Path, text: str) -> None:
    began = time.process_time()
    with pytest.raises(FormatError, match=text):
        read_index(path)
    assert time.process_time() - began < 10


def bomb(path: Path, name: str) -> Path:
    """A record of 64 MiB of zeros in 64 KiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(name, "w") as record:
            for _ in range(64):
                record.write(bytes(1 << 20))
        if not name.endswith("data.pkl"):
            archive.writestr("m/data.pkl", EMPTY, compress_type=zipfile.ZIP_STORED)
    return path


@pytest.mark.parametrize("name", ["m/data.pkl", "m/data/0", "m/byteorder"])
def test_a_compressed_record_is_refused_and_not_inflated(tmp_path: Path, name: str) -> None:
    path = bomb(tmp_path / "bomb.pt", name)
    assert path.stat().st_size < 128 << 10
    refused(path, "is compressed|is packed with zip method 8|not one of torch.save")


def test_one_kernel_under_a_thousand_names_is_refused(tmp_path: Path) -> None:
    """Fifield's better zip bomb: all entries of the directory point at the same bytes."""
    data = pack({f"m/data/{number}": b"" for number in range(1000)} | {"m/data.pkl": EMPTY, "m/data/x": bytes(64)})
    at = data.index(b"PK\x01\x02")
    kernel = data.rindex(b"PK\x03\x04", 0, at)
    entries, places = bytearray(data), []
    while at >= 0 and data[at : at + 4] == b"PK\x01\x02":
        places.append(at)
        at = data.find(b"PK\x01\x02", at + 4)
    for place in places:
        struct.pack_into("<L", entries, place + 42, kernel)
    (tmp_path / "m.pt").write_bytes(entries)
    refused(tmp_path / "m.pt", "there is no header of the record|overlap")


def test_a_record_quoted_within_the_one_before_is_refused(tmp_path: Path) -> None:
    """Local headers nested as stored data, the innermost shared: each entry is sound but for where it lies."""
    inner = pack({"m/data/2": bytes(8)})
    header_bytes = 30 + len("m/data/1")
    data = pack({"m/data.pkl": EMPTY, "m/data/1": inner})
    extra = bytearray(inner[inner.index(b"PK\x01\x02") : inner.index(b"PK\x05\x06")])
    struct.pack_into("<L", extra, 42, data.index(b"m/data/1") - 30 + header_bytes)
    end = data.rindex(b"PK\x05\x06")
    tail = bytearray(data[end:])
    count, size = 3, int.from_bytes(tail[12:16], "little") + len(extra)
    struct.pack_into("<2HL", tail, 8, count, count, size)
    (tmp_path / "m.pt").write_bytes(data[:end] + bytes(extra) + bytes(tail))
    refused(tmp_path / "m.pt", "overlap")


def test_a_zip_that_holds_itself_is_looked_into_once(tmp_path: Path) -> None:
    """A quine is a matryoshka without end for whoever unpacks what he finds; here an archive in an archive is a record as any other."""
    data = pack({"m/data.pkl": EMPTY})
    for _ in range(12):
        data = pack({"m/data.pkl": EMPTY, "m/data/again.zip": data})
    (tmp_path / "m.pt").write_bytes(data)
    assert read_index(tmp_path / "m.pt").tensors == ()


def test_a_zip_of_zips_is_no_checkpoint(tmp_path: Path) -> None:
    library = bomb(tmp_path / "lib.zip", "0.dll").read_bytes()
    (tmp_path / "42.pt").write_bytes(pack({f"lib {number}.zip": library for number in range(16)}))
    refused(tmp_path / "42.pt", "not one of torch.save")


@pytest.mark.parametrize("size", [GIB, 1 << 40, 2**63, 2**64 - 1])
def test_a_size_only_the_directory_speaks_of_allocates_nothing(tmp_path: Path, size: int) -> None:
    wide = struct.pack("<2H2Q", 1, 16, size, size)
    data = bytearray(pack({"m/data.pkl": EMPTY}, extra=wide))
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<2L", data, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    (tmp_path / "m.pt").write_bytes(data)
    refused(tmp_path / "m.pt", "over the directory")


def test_a_directory_larger_than_any_checkpoint_has_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.pt").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(200 << 20)
        file.seek(200 << 20)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 199 << 20, 0, 0))
    refused(tmp_path / "m.pt", "at most 67108864 are read")
