"""A safetensors file whose header does not describe the file: cut short, overlapping, out of range, ambiguous, or enormous.

What stops it: `safetensors.read_index` accepts only headers whose tensors cover the data exactly once, as the reference does.
"""

from __future__ import annotations

import struct

import pytest
import safetensors.torch
import torch

from convsvc.errors import FormatError
from convsvc.formats.regular_file import open_regular
from convsvc.formats.safetensors import read_index


def refused(path, text):
    with pytest.raises(FormatError, match=text) as caught:
        read_index(path)
    assert str(path) in str(caught.value)
    return caught.value


def tensor(name, start, stop, shape="[2]", dtype="F32"):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{stop}]}}'


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    assert len(read_index(tmp_path / "whole").tensors) == 2
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"cut"):
            read_index(tmp_path / "cut")


def test_a_file_with_more_bytes_than_tensors_is_refused(safetensors_of):
    refused(safetensors_of(f"{{{tensor('w', 0, 8)}}}".encode(), bytes(9)), "end at byte 8 of the data, the file has 9")


@pytest.mark.parametrize(
    ("entries", "size", "text"),
    [
        ([("a", 0, 8), ("b", 4, 12)], 12, "a and b overlap by 4 bytes"),
        ([("a", 0, 8), ("b", 0, 8)], 8, "a and b overlap by 8 bytes"),
        ([("a", 0, 8), ("b", 12, 20)], 20, "4 bytes between a and b belong to no tensor"),
        ([("a", 4, 12)], 12, "4 bytes before a belong to no tensor"),
        ([("a", 0, 8), ("b", 8, 16)], 12, r"b: its data_offsets \[8, 16\] are not within the file's 12 bytes"),
        ([("a", 8, 0)], 8, r"a: its data_offsets \[8, 0\] are not within"),
        ([("a", -8, 0)], 8, "a: its data_offsets are not two counts"),
    ],
)
def test_tensors_that_overlap_leave_holes_or_leave_the_file_are_refused(safetensors_of, entries, size, text):
    refused(safetensors_of(("{" + ",".join(tensor(*entry) for entry in entries) + "}").encode(), bytes(size)), text)


@pytest.mark.parametrize("shape", ["[4611686018427387904,4]", "[18446744073709551617]", "[1e3]", "[4294967296,4294967296]"])
def test_a_shape_whose_size_wraps_around_64_bits_is_refused(safetensors_of, shape):
    refused(safetensors_of(f"{{{tensor('w', 0, 0, shape)}}}".encode()), "w: ")


def test_a_zero_among_huge_sizes_is_just_an_empty_tensor(safetensors_of):
    assert read_index(safetensors_of(f"{{{tensor('w', 0, 0, '[4294967296,0]')}}}".encode())).tensors[0].size_bytes == 0


@pytest.mark.parametrize(
    "header",
    [
        f"{{{tensor('w', 0, 8)},{tensor('w', 8, 16)}}}",
        '{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        '{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}}',
    ],
)
def test_a_key_that_occurs_twice_is_refused(safetensors_of, header):
    refused(safetensors_of(header.encode(), bytes(16)), "occurs twice")


@pytest.mark.parametrize("size", [100_000_001, 2**63, 2**64 - 1])
def test_a_header_length_over_the_limit_is_not_even_tried(safetensors_of, size):
    refused(safetensors_of(b"{}", size=size), "is not a safetensors file")


def test_a_header_longer_than_the_file_is_refused(safetensors_of):
    refused(safetensors_of(b"{}", size=99_999_999), "is cut short")


@pytest.mark.parametrize("header", [b"[]", b"null", b"\n{}", b'"{}"'])
def test_a_header_that_is_not_an_object_is_refused(safetensors_of, header):
    refused(safetensors_of(header), "is not a safetensors file")


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"w":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"w":' + b"9" * 100_000 + b"}",
        b"{} {}",
        b"{}\0",
    ],
    ids=["nested lists", "nested objects", "a number of 100000 digits", "two objects", "a trailing NUL"],
)
def test_json_made_to_break_parsers_is_refused(safetensors_of, header):
    refused(safetensors_of(header), "is not valid JSON")


def test_a_header_of_millions_of_values_is_refused_before_it_is_parsed(safetensors_of):
    refused(safetensors_of(b'{"w":[' + b"[]," * 4_000_100 + b"[]]}"), "has over 8000000 values")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    (tmp_path / "m").write_bytes(struct.pack("<Q", 2) + b"{}" + bytes(100))
    with open_regular(tmp_path / "m") as file:
        (tmp_path / "m").write_bytes(b"short")
        with pytest.raises(FormatError, match="became shorter"):
            file.read(0, 100, "the header")
