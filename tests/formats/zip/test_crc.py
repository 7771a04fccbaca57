"""Checksums against zlib, which is slower and right."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from convsvc.formats.zip.crc import combine, crc32, crc32_zeros


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_continue_and_combine_as_zlib_computes_them(first, second):
    whole = zlib.crc32(first + second)
    assert crc32(second, crc32(first)) == whole
    assert combine(crc32(first), crc32(second), len(second)) == whole


@given(st.integers(0, 100_000))
def test_the_checksum_of_zeros_needs_no_zeros(size_bytes):
    assert crc32_zeros(size_bytes) == zlib.crc32(bytes(size_bytes))


def test_the_checksum_of_a_terabyte_of_zeros_is_that_of_its_halves():
    half = 1 << 39
    assert crc32_zeros(2 * half) == combine(crc32_zeros(half), crc32_zeros(half), half)
