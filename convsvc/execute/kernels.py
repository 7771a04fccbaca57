"""Moves elements between strided numpy views. Elements are bit patterns here: never floats, so that a NaN's payload is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from convsvc.tensors.dtypes import size_of

Bits = npt.NDArray[Any]
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def view_bits(buffer: npt.NDArray[np.uint8], start: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> Bits:
    """Elements of a byte buffer from byte `start` on, as unsigned integers of the dtype's size. Strides in elements."""
    itemsize = size_of(dtype)
    steps = tuple(stride * itemsize for stride in strides)
    return np.ndarray(shape, UNSIGNED[itemsize], buffer=buffer.data, offset=start, strides=steps)


def strided_copy(target: Bits, source: Bits) -> None:
    """Copies `source` to `target`: same shape, same element size, any strides."""
    np.copyto(target, source)
