"""The floor: as many bytes read and written around the page cache as a conversion does, overlapped, and nothing else.

    python -m benchmarks.floor SOURCE TARGET IN_BYTES OUT_BYTES
    ... --depth 4        so many reads and so many writes under way at once: what the disk can do, whoever asks
    ... --reread         reads again what was written, as a verification does

The file system must take O_DIRECT.
"""

from __future__ import annotations

import argparse
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK_BYTES = 8 << 20
# As large as rank files are; one file would be a kinder load for the file system.
FILE_BYTES = 1 << 30

Chunk = tuple[int, int, int]  # descriptor, offset, bytes


def read_some(source: Path, size_bytes: int, depth: int) -> None:
    """Reads so many bytes of the files, directly, in large pieces, `depth` of them at a time."""
    # Nobody looks at what was read: all reads share one buffer.
    buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))
    files = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in sorted(source.rglob("*")) if path.is_file()]
    sizes = [os.fstat(descriptor).st_size for descriptor in files]
    chunks = [chunk for descriptor, size in zip(files, sizes, strict=True) for chunk in _chunks(descriptor, size)]
    with ThreadPoolExecutor(depth) as pool:
        # Direct reads end at whole blocks, or at the file's end.
        list(pool.map(lambda chunk: os.preadv(chunk[0], [buffer], chunk[1]), _first(chunks, size_bytes)))
    for descriptor in files:
        os.close(descriptor)


def write_all(target: Path, size_bytes: int, depth: int) -> None:
    """Writes so many bytes into new files, directly, `depth` pieces at a time, and waits until they are on the disk."""
    target.mkdir(parents=True)
    memory = mmap.mmap(-1, CHUNK_BYTES)
    memory.write(os.urandom(1 << 10) * (CHUNK_BYTES >> 10))
    buffer = memoryview(memory)
    files = []
    for number, length in enumerate(_lengths(size_bytes)):
        files.append((os.open(target / str(number), os.O_WRONLY | os.O_CREAT | os.O_DIRECT), length))
        os.posix_fallocate(files[-1][0], 0, length)
    chunks = [chunk for descriptor, length in files for chunk in _chunks(descriptor, length)]
    with ThreadPoolExecutor(depth) as pool:
        list(pool.map(lambda chunk: os.pwritev(chunk[0], [buffer[: chunk[2]]], chunk[1]), chunks))
    for descriptor, _ in files:
        os.fdatasync(descriptor)
        os.close(descriptor)


def _chunks(descriptor: int, size_bytes: int) -> Iterator[Chunk]:
    for at in range(0, size_bytes, CHUNK_BYTES):
        yield descriptor, at, min(CHUNK_BYTES, size_bytes - at)


def _first(chunks: list[Chunk], size_bytes: int) -> Iterator[Chunk]:
    """The chunks that hold the first so many bytes."""
    for chunk in chunks:
        if size_bytes <= 0:
            return
        yield chunk
        size_bytes -= chunk[2]


def _lengths(size_bytes: int) -> Iterator[int]:
    """Of files of whole blocks."""
    left = -(-size_bytes // 4096) * 4096
    while left:
        yield min(left, FILE_BYTES)
        left -= min(left, FILE_BYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, help="a new directory")
    parser.add_argument("in_bytes", type=int)
    parser.add_argument("out_bytes", type=int)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--reread", action="store_true")
    given = parser.parse_args()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_some, given.source, given.in_bytes, given.depth)
        write_all(given.target, given.out_bytes, given.depth)
        reading.result()
    if given.reread:
        read_some(given.target, given.out_bytes, given.depth)


if __name__ == "__main__":
    main()
