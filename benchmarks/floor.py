"""The floor: as many bytes read and written around the page cache as a conversion does, overlapped, and nothing else.

python -m benchmarks.floor SOURCE TARGET OUT_BYTES
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

CHUNK_BYTES = 8 << 20
# As large as rank files are; one file would be a kinder load for the file system.
FILE_BYTES = 1 << 30


def read_some(source: Path, size_bytes: int) -> None:
    """Reads so many bytes of the files, directly, in large pieces."""
    buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        at = 0
        while at < size_bytes and (got := os.preadv(descriptor, [buffer], at)):
            at += got
        os.close(descriptor)
        size_bytes -= at
        if size_bytes <= 0:
            return


def write_all(target: Path, size_bytes: int) -> None:
    """Writes so many bytes, directly, and waits until they are on the disk."""
    target.mkdir(parents=True)
    memory = mmap.mmap(-1, CHUNK_BYTES)
    memory.write(os.urandom(1 << 10) * (CHUNK_BYTES >> 10))
    buffer = memoryview(memory)
    for number, length in enumerate(_lengths(size_bytes)):
        descriptor = os.open(target / str(number), os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
        for at in range(0, length, CHUNK_BYTES):
            os.pwritev(descriptor, [buffer[: min(CHUNK_BYTES, length - at)]], at)
        os.fdatasync(descriptor)
        os.close(descriptor)


def _lengths(size_bytes: int) -> Iterator[int]:
    """Of files of whole blocks."""
    left = -(-size_bytes // 4096) * 4096
    while left:
        yield min(left, FILE_BYTES)
        left -= min(left, FILE_BYTES)


def main(source: Path, target: Path, in_bytes: int, out_bytes: int, reread: bool) -> None:
    reading = Thread(target=read_some, args=(source, in_bytes))
    reading.start()
    write_all(target, out_bytes)
    reading.join()
    if reread:
        read_some(target, out_bytes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), "reread" in sys.argv)
