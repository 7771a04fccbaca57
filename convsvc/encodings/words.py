"""Integers of 2, 4 or 8 bits in words of 32, as they are unpacked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from convsvc.encodings.base import Bytes
from convsvc.encodings.numbers import Floats

# Of 3, 5, 6 and 7 bits a code may lie in two words; tools differ in how.
WIDTHS = (2, 4, 8)
# How AutoAWQ orders the codes of a word (utils/packing_utils.py AWQ_ORDER): output k lies in this one of the word's codes.
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


@lru_cache(maxsize=8)
def _numbers(bits: int, offset: int) -> npt.NDArray[Any]:
    """For each byte its codes less `offset`, the lowest first, as float32 side by side in one element."""
    per = 8 // bits
    codes = np.stack([(np.arange(256) >> (bits * k)) & ((1 << bits) - 1) for k in range(per)], axis=-1)
    values = np.ascontiguousarray((codes - offset).astype(np.float32))
    return values.reshape(-1).view({1: np.float32, 2: np.uint64, 4: np.complex128}[per])


def unpack_bytes(packed: Bytes, bits: int, offset: int) -> Floats:
    """The codes of rows of bytes, less `offset`, as float32: lowest bits first, as words of little-endian machines have them."""
    table = _numbers(bits, offset)
    made: Floats = np.take(table, np.ascontiguousarray(packed), mode="clip").view(np.float32)
    return made


def unpack_columns(words: npt.NDArray[np.uint32], bits: int, order: tuple[int, ...] | None = None) -> npt.NDArray[np.int16]:
    """The codes of words along a row: [rows, words] gives [rows, words x 32 / bits]."""
    shifts = np.array(order or range(32 // bits), np.uint32) * np.uint32(bits)
    codes = (words[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.int16).reshape(words.shape[0], -1)


def unpack_rows(words: npt.NDArray[np.uint32], bits: int, rows: npt.NDArray[np.intp], first: int) -> npt.NDArray[np.int16]:
    """The codes of these rows, of which each word of a row holds 32 / bits; `first` is the number of the first row of words."""
    per = 32 // bits
    shifts = (rows % per * bits).astype(np.uint32)
    codes = (words[rows // per - first] >> shifts[:, None]) & np.uint32((1 << bits) - 1)
    return codes.astype(np.int16)


def pack_columns(codes: npt.NDArray[Any], bits: int, order: tuple[int, ...] | None = None) -> Bytes:
    """What `unpack_columns` unpacks, as bytes of rows of words. A last word that is not full has zeros in it."""
    per = 32 // bits
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // per) * per), np.uint32)
    padded[:, : codes.shape[1]] = codes
    shifts = np.array(order or range(per), np.uint32) * np.uint32(bits)
    words = np.bitwise_or.reduce(padded.reshape(codes.shape[0], -1, per) << shifts, axis=2)
    packed: Bytes = words.astype("<u4").view(np.uint8)
    return packed


def pack_rows(codes: npt.NDArray[Any], bits: int) -> Bytes:
    """What `unpack_rows` unpacks, from the first row of words on, as bytes of rows of words."""
    per = 32 // bits
    padded = np.zeros((-(-codes.shape[0] // per) * per, codes.shape[1]), np.uint32)
    padded[: codes.shape[0]] = codes
    shifts = (np.arange(per, dtype=np.uint32) * np.uint32(bits))[None, :, None]
    words = np.bitwise_or.reduce(padded.reshape(-1, per, codes.shape[1]) << shifts, axis=1)
    packed: Bytes = np.ascontiguousarray(words.astype("<u4")).view(np.uint8)
    return packed


def wrong_groups(inputs: int, count: int, sizes: Sequence[int]) -> str | None:
    """What is wrong with so many groups of inputs, where `group_size` says one of these; -1 stands for all inputs."""
    if not inputs or not sizes or any(count == (-(-inputs // size) if size > 0 else 1) for size in sizes):
        return None
    said = " or ".join(map(str, sizes))
    return f"expected groups of {said} in {inputs} inputs, as quantization_config says, found {count} groups"
