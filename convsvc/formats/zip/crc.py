"""CRC-32 as zip files use it: of bytes, of two parts joined, of a run of zeros without making the zeros.

isal computes it at the speed of memory; `zlib` would take longer than writing the file.
"""

from __future__ import annotations

from isal import isal_zlib


def crc32(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """CRC-32 of `data`, continuing from `value` (the checksum of what came before). Pure.

    >>> hex(crc32(b"456789", crc32(b"123")))
    '0xcbf43926'
    """
    return int(isal_zlib.crc32(data, value))


def combine(crc1: int, crc2: int, len2: int) -> int:
    """CRC-32 of two parts joined, from the checksum of each and the length of the second in bytes. Pure.

    >>> combine(crc32(b"first"), crc32(b"second"), 6) == crc32(b"firstsecond")
    True
    """
    return int(isal_zlib.crc32_combine(crc1, crc2, len2))


def crc32_zeros(size_bytes: int) -> int:
    """CRC-32 of a run of zero bytes, in time logarithmic in its length: doubling, one `combine` a bit. Pure.

    >>> crc32_zeros(1000) == crc32(bytes(1000))
    True
    """
    total, run, run_bytes = 0, crc32(b"\0"), 1
    while size_bytes:
        if size_bytes & 1:
            total = combine(total, run, run_bytes)
        run, run_bytes, size_bytes = combine(run, run, run_bytes), run_bytes * 2, size_bytes >> 1
    return total
