"""How buffers agree with files: memory that starts at a block's boundary, and where in it a range is best put. Pure."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

# Enough for every disk and file system in use; many take 512.
BLOCK_BYTES = 4096
# What is shorter goes through the page cache, which reads ahead and gathers writes.
LEAST_BYTES = 128 << 10


def aligned_bytes(size_bytes: int) -> Bytes:
    """Zeroed memory that starts at a block's boundary, and is the system's again once nobody uses it.

    From malloc, which keeps such buffers in its heap, in pieces, once one was freed, each task left more: a process that held 130 MiB
    after its first conversions held 400 to 580 after some twenty.
    """
    memory = np.frombuffer(mmap.mmap(-1, size_bytes + BLOCK_BYTES, flags=mmap.MAP_PRIVATE), np.uint8)
    skip = -memory.ctypes.data % BLOCK_BYTES
    return memory[skip : skip + size_bytes]


def agreeing(start: int, file_offset: int, size_bytes: int, itemsize: int) -> int:
    """The first byte from `start` of a buffer on at which a range of a file is best put.

    A range that is moved directly lies there as in the file, modulo a block; unless its elements would be misaligned then.

    >>> agreeing(64, 4096 * 7 + 10, 1 << 20, 2), agreeing(64, 4096 * 7 + 9, 1 << 20, 2), agreeing(64, 10, 100, 2)
    (4106, 64, 64)
    """
    if size_bytes < LEAST_BYTES or file_offset % itemsize:
        return start
    return start + (file_offset - start) % BLOCK_BYTES
