"""A torch file whose zip structure lies: compressed, overlapping, outside the file, ambiguous, or split.

What stops it: `zip.reader.read_directory` checks every record's local header and place before anything of it is used.
"""

from __future__ import annotations

import struct
import zipfile

import pytest
import torch

from convsvc.errors import FormatError
from convsvc.formats.torch_zip import read_index

EMPTY = b"\x80\x02}."


def refused(path, text):
    with pytest.raises(FormatError, match=text) as caught:
        read_index(path)
    assert str(path) in str(caught.value)


@pytest.fixture
def patched(tmp_path):
    """A small torch file whose directory entry number `entry` has other bytes at `at`."""

    def patch(entry, at, data):
        torch.save({"a": torch.ones(4), "b": torch.zeros(4)}, tmp_path / "model.pt")
        raw = bytearray((tmp_path / "model.pt").read_bytes())
        place = -1
        for _ in range(entry + 1):
            place = raw.index(b"PK\x01\x02", place + 1)
        raw[place + at : place + at + len(data)] = data
        (tmp_path / "model.pt").write_bytes(raw)
        return tmp_path / "model.pt"

    return patch


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_record_is_refused_with_a_way_out(pt_with, method):
    refused(pt_with(EMPTY, compression=method, _0=bytes(1 << 20)), r"data/0' is packed with zip method .*\n.*zip -0")


@pytest.mark.parametrize(
    ("at", "data", "text"),
    [
        (42, struct.pack("<L", 0), "there is no header of the record"),
        (42, struct.pack("<L", 0x7FFFFFFF), "is said to begin at 2147483647"),
        (42, struct.pack("<L", 0xFFFFFFFF), "no zip64 sizes though it needs them"),
        (20, struct.pack("<2L", 1 << 30, 1 << 30), "over the directory"),
        (20, struct.pack("<2L", 8, 16), "is stored, yet has 16 bytes in 8"),
        (20, struct.pack("<2L", 300, 300), "overlap"),
        (8, struct.pack("<H", 1), "is encrypted"),
        (28, struct.pack("<H", 60000), "runs over its end"),
        (0, b"XX", "is not an entry"),
    ],
)
def test_a_directory_entry_that_lies_is_refused(patched, at, data, text):
    refused(patched(4, at, data), text)


def test_two_entries_for_the_same_bytes_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", EMPTY)
        archive.writestr("m/data/0", bytes(8))
        archive.filelist.append(archive.filelist[1])
    refused(tmp_path / "m.pt", "'m/data/0' occurs twice")


def test_a_record_inside_another_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as inner:
        inner.writestr("m/data/1", bytes(8))
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", EMPTY)
        archive.writestr("m/data/0", (tmp_path / "inner.zip").read_bytes())
        hidden = zipfile.ZipInfo("m/data/1")
        hidden.file_size = hidden.compress_size = 8
        hidden.CRC = 0
        hidden.header_offset = archive.filelist[1].header_offset + 30 + len("m/data/0")
        archive.filelist.append(hidden)
    refused(tmp_path / "m.pt", "overlap")


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    torch.save({"w": torch.ones(4)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in range(1, len(whole)):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(FormatError):
            read_index(tmp_path / "cut.pt")


def test_a_zip_that_is_no_checkpoint_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "m.pt", "not one of torch.save")
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("other/readme.txt", "hello")
        archive.writestr("m/data.pkl", EMPTY)
    refused(tmp_path / "m.pt", "not one of torch.save")


@pytest.mark.parametrize("value", [5, None, True, 1.5, "text", b"bytes", torch.float32, {1}, (), []], ids=repr)
def test_a_file_of_a_plain_value_holds_no_tensors(tmp_path, value):
    torch.save(value, tmp_path / "m.pt")
    assert read_index(tmp_path / "m.pt").tensors == ()


def test_an_empty_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w"):
        pass
    refused(tmp_path / "m.pt", "is not a torch zip file")


def test_a_big_endian_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", EMPTY)
        archive.writestr("m/byteorder", "big")
    refused(tmp_path / "m.pt", "byte order 'big'")


@pytest.mark.parametrize(
    ("at", "data"), [(4, b"\x01\x00"), (12, b"\xff\xff\xff\x7f"), (16, b"\xff\xff\xff\x7f"), (10, b"\xff\x7f"), (20, b"\x05\x00")]
)
def test_an_end_record_that_lies_is_refused(tmp_path, at, data):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", EMPTY)
    raw = bytearray((tmp_path / "m.pt").read_bytes())
    raw[len(raw) - 22 + at : len(raw) - 22 + at + len(data)] = data
    (tmp_path / "m.pt").write_bytes(raw)
    refused(tmp_path / "m.pt", "is not a sound zip file")


def test_an_end_record_within_a_comment_does_not_count(tmp_path):
    fake = b"PK\x05\x06" + bytes(16) + b"\xff\xff"
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", EMPTY)
        archive.comment = fake
    assert read_index(tmp_path / "m.pt").tree == {}
