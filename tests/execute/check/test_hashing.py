"""A file is hashed while it is written: the hash is that of the bytes that lie there in the end, in whatever order they come."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.execute.check.digests import Digests, Region
from convsvc.execute.check.hashing import FileHash, FileHashes, Ranges, hash_file
from convsvc.execute.steps.records import Write, WritePlace
from convsvc.execute.task_files import Side
from convsvc.formats import distcp
from convsvc.formats.base import Skeleton, StoredTensor, TensorSpec
from convsvc.formats.zip.crc import crc32
from convsvc.plan.records import PlannedFile, PlannedTensor

shapes = st.lists(st.sampled_from([(0,), (), (5,), (3, 7), (70_000,), (2, 3, 5)]), min_size=1, max_size=4)


def planned(shapes: list[tuple[int, ...]]) -> Skeleton:
    return distcp.plan_skeleton([TensorSpec(f"w{number}", "U8", shape) for number, shape in enumerate(shapes)])


def filled(skeleton: Skeleton) -> bytearray:
    """The whole file, as sealing leaves it."""
    data, crcs = bytearray(skeleton.size_bytes), {}
    for tensor in skeleton.tensors:
        values = hashlib.shake_256(tensor.name.encode()).digest(tensor.size_bytes)
        data[tensor.file_offset : tensor.file_offset + tensor.size_bytes] = values
        crcs[tensor.name] = crc32(values)
    for start, part in distcp.seal(skeleton, crcs):
        data[start : start + len(part)] = part
    return data


@settings(max_examples=60, deadline=None)
@given(shapes, st.randoms(use_true_random=False))
def test_the_hash_is_that_of_the_whole_file_whatever_order_its_pieces_are_written_in(shapes, random) -> None:
    skeleton = planned(shapes)
    data = filled(skeleton)
    pieces = [
        (tensor.file_offset + start, min(step, tensor.size_bytes - start))
        for tensor in skeleton.tensors
        for step in (random.choice((1 << 15, 1, 4) if tensor.size_bytes < 100 else (1 << 15, 9999)),)
        for start in range(0, tensor.size_bytes, step)
    ]
    random.shuffle(pieces)
    there = set()

    def read_back(start: int, stop: int) -> Iterator[memoryview]:
        assert all(at in there for at in (start, stop - 1)), "bytes are read back once they are written"
        yield memoryview(data)[start:stop]

    made = FileHash(skeleton.size_bytes, skeleton.tensors, lambda tensor: crc_of(data, tensor), read_back)
    for count, (start, size) in enumerate(pieces):
        assert made.whole() is None, f"known after {count} of {len(pieces)} pieces"
        made.wrote(start, memoryview(data)[start : start + size])
        there |= {start, start + size - 1, *range(start, min(start + size, start + 200))}
    assert made.whole() == hashlib.sha256(data).hexdigest()


def crc_of(data: bytearray, tensor: StoredTensor) -> int:
    return crc32(bytes(data[tensor.file_offset : tensor.file_offset + tensor.size_bytes]))


def test_pieces_in_order_are_never_read_back() -> None:
    skeleton = planned([(70_000,), (3, 7)])
    data = filled(skeleton)

    def never(start: int, stop: int) -> Iterator[memoryview]:
        raise AssertionError(f"bytes {start} to {stop} are read back")

    made = FileHash(skeleton.size_bytes, skeleton.tensors, lambda tensor: crc_of(data, tensor), never)
    for tensor in skeleton.tensors:
        for start in range(tensor.file_offset, tensor.file_offset + tensor.size_bytes, 1000):
            stop = min(start + 1000, tensor.file_offset + tensor.size_bytes)
            made.wrote(start, memoryview(data)[start:stop])
    assert made.whole() == hashlib.sha256(data).hexdigest()


def test_ranges_that_touch_are_one() -> None:
    ranges = Ranges()
    for start, stop in ((4, 6), (8, 9), (6, 8), (0, 1), (1, 4)):
        ranges.add(start, stop)
    assert (ranges.take(4), ranges.take(0), ranges.take(0)) == (None, 9, None)


def test_runs_of_one_write_may_lie_around_what_was_written_before(tmp_path: Path) -> None:
    """Columns of a matrix, the second before the first: half of the file is read back, and the file is hashed."""
    skeleton = planned([(4, 8)])
    data = filled(skeleton)
    first = skeleton.tensors[0].file_offset
    path = tmp_path / "a.distcp"
    path.write_bytes(bytes(len(data)))
    side = Side((PlannedFile("a.distcp", len(data), "distcp"),), (PlannedTensor(0, "w0", "U8", (4, 8), first, 32),), (7,))
    digests, directory = Digests(), os.open(tmp_path, os.O_RDONLY)
    with FileHashes(side, digests, directory) as hashes, path.open("r+b") as file:
        for column in (4, 0):
            write = Write(0, 4, False, (WritePlace(0, column),), 4, 8)
            rows = b"".join(bytes(data[first + column + 8 * row : first + column + 8 * row + 4]) for row in range(4))
            for row in range(4):
                digests.add(7, Region(column + 8 * row, 4, crc32(rows[4 * row : 4 * row + 4])))
            hashes.wrote(write, memoryview(rows)).result()
            for row in range(4):
                file.seek(first + column + 8 * row)
                file.write(rows[4 * row : 4 * row + 4])
            file.flush()
        assert hashes.by_path() == {"a.distcp": hashlib.sha256(data).hexdigest()}
        assert hashes.bytes_read == 16
    os.close(directory)


def test_a_file_that_another_task_writes_to_is_none_of_these(tmp_path: Path) -> None:
    skeleton = planned([(5,), (3, 7)])
    first = skeleton.tensors[0]
    side = Side((PlannedFile("a", skeleton.size_bytes, "distcp"),), (PlannedTensor(0, "w0", "U8", (5,), first.file_offset, 5),), (0,))
    directory = os.open(tmp_path, os.O_RDONLY)
    with FileHashes(side, Digests(), directory) as hashes:
        assert hashes.by_path() == {}
    os.close(directory)


def test_an_open_file_is_hashed_whole(tmp_path: Path) -> None:
    data = hashlib.shake_256(b"file").digest((1 << 20) + 3)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        assert hash_file(file.fileno()) == hashlib.sha256(data).hexdigest()
