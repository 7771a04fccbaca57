"""SHA-256 of files, taken while a task writes them, so that nobody reads them once more.

It takes a file's bytes in their order. A `.distcp` file allows that: what depends on a tensor's bytes, its checksum, stands behind them.
Bytes that are written before their turn are read back from the file when it comes; steps follow the target's order, so that few are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import heapify, heappop, heappush
from types import TracebackType

from convsvc.execute.check.digests import Digests
from convsvc.execute.disk.faults import storage_error
from convsvc.execute.disk.open_files import OpenFiles
from convsvc.execute.steps.records import Write
from convsvc.execute.task_files import Side
from convsvc.formats import distcp
from convsvc.formats.base import StoredTensor, TensorSpec
from convsvc.roots import ANYWHERE, Roots

CHUNK_BYTES = 1 << 20
FORMAT = "distcp"


class Ranges:
    """Half-open ranges, those that touch as one."""

    def __init__(self) -> None:
        self._stops: dict[int, int] = {}
        self._starts: dict[int, int] = {}

    def add(self, start: int, stop: int) -> None:
        first = self._starts.pop(start, start)
        last = self._stops.pop(stop, stop)
        self._stops[first], self._starts[last] = last, first

    def take(self, start: int) -> int | None:
        """Where the range ends that begins here, which is dropped; None where there is none."""
        stop = self._stops.pop(start, None)
        if stop is not None:
            del self._starts[stop]
        return stop


class FileHash:
    """The hash of one new file, as far as its bytes are known in order.

    `crc_of` says a tensor's checksum once it was written whole, `read_back` gives a range of the file.
    """

    def __init__(
        self,
        size_bytes: int,
        tensors: Iterable[StoredTensor],
        crc_of: Callable[[StoredTensor], int],
        read_back: Callable[[int, int], Iterator[memoryview]],
    ) -> None:
        self._hash, self._at, self._size_bytes = hashlib.sha256(), 0, size_bytes
        self._tensors = sorted(tensors, key=lambda tensor: tensor.file_offset, reverse=True)
        self._around = [part for tensor in self._tensors for part in distcp.frame(tensor)]
        heapify(self._around)
        self._later, self._crc_of, self._read_back = Ranges(), crc_of, read_back
        self._advance()

    def wrote(self, file_offset: int, data: memoryview) -> None:
        """Takes bytes of a tensor whose turn it is; of others it is noted that they are there."""
        if file_offset != self._at:
            self._later.add(file_offset, file_offset + len(data))
            return
        self._take(data)
        self._advance()

    def filled(self, file_offset: int, size_bytes: int) -> None:
        """Zeros of a tensor that nobody writes: the file is made of them."""
        self._later.add(file_offset, file_offset + size_bytes)
        self._advance()

    def whole(self) -> str | None:
        """The hash in hex; None where bytes are missing: another task writes them."""
        return self._hash.hexdigest() if self._at == self._size_bytes else None

    def _take(self, data: memoryview | bytes) -> None:
        self._hash.update(data)
        self._at += len(data)

    def _advance(self) -> None:
        """Takes all that is known now: what is around tensors, zeros between, and what was written before its turn."""
        while self._at < self._size_bytes:
            tensor = self._tensors[-1] if self._tensors else None
            if tensor is not None and self._at == tensor.file_offset + tensor.size_bytes:
                self._tensors.pop()
                for part in distcp.closing(tensor, self._crc_of(tensor)):
                    heappush(self._around, part)
            elif tensor is not None and self._at >= tensor.file_offset:
                stop = self._later.take(self._at)
                if stop is None:
                    return
                for data in self._read_back(self._at, stop):
                    self._take(data)
            else:
                self._take_around(self._size_bytes if tensor is None else tensor.file_offset)

    def _take_around(self, stop: int) -> None:
        """The next of what is around tensors, or the zeros up to it."""
        if self._around and self._around[0][0] == self._at:
            self._take(heappop(self._around)[1])
            return
        stop = min(stop, self._around[0][0]) if self._around else stop
        self._take(bytes(min(CHUNK_BYTES, stop - self._at)))


class FileHashes:
    """The hashes of the files that a task writes whole; a context manager, in whose thread they are taken. `bytes_read` were read back."""

    def __init__(self, target: Side, digests: Digests, directory: int, roots: Roots = ANYWHERE) -> None:
        self._target, self._digests = target, digests
        self._files = OpenFiles(target.files, directory, os.O_RDONLY, roots)
        self._hashing = ThreadPoolExecutor(1, "convsvc-hash")
        self.bytes_read = 0
        held: dict[int, list[int]] = {}
        for number, tensor in enumerate(target.tensors):
            held.setdefault(tensor.file, []).append(number)
        self._hashes = {file: self._begun(file, numbers) for file, numbers in held.items() if self._is_whole(file, numbers)}

    def __enter__(self) -> FileHashes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hashing.shutdown()
        self._files.close()

    def wrote(self, write: Write, data: memoryview) -> Future[None]:
        """Takes what is written; `data` must stay as they are until it is done, and the digests have them."""
        return self._hashing.submit(self._wrote, write, data)

    def filled(self, tensor: int, start: int, size_bytes: int) -> None:
        """Bytes of a tensor that stay the zeros they are."""
        found = self._target.tensors[tensor]
        if found.file in self._hashes and size_bytes:
            self._hashes[found.file].filled(found.file_offset + start, size_bytes)

    def by_path(self) -> dict[str, str]:
        """{path: hash in hex} of all that are whole."""
        found = {self._target.files[file].path: each.whole() for file, each in self._hashes.items()}
        return {path: hexed for path, hexed in found.items() if hexed is not None}

    def _wrote(self, write: Write, data: memoryview) -> None:
        pieces = [
            (tensor.file, tensor.file_offset + run.data_offset, part)
            for at in write.places
            for tensor in (self._target.tensors[at.tensor],)
            if tensor.file in self._hashes
            for run, part in write.runs(at, data)
        ]
        # In their order: what is noted as written before its turn is in the file by the time when anybody asks for it.
        for file, file_offset, part in sorted(pieces, key=lambda piece: piece[:2]):
            self._hashes[file].wrote(file_offset, part)

    def _is_whole(self, file: int, numbers: list[int]) -> bool:
        """Whether all that the file has are these tensors."""
        return self._target.files[file].format == FORMAT and self._planned(numbers) == (
            self._target.files[file].size_bytes,
            tuple([self._target.tensors[number].file_offset for number in self._ordered(numbers)]),
        )

    def _planned(self, numbers: list[int]) -> tuple[int, tuple[int, ...]]:
        tensors = [self._target.tensors[number] for number in self._ordered(numbers)]
        skeleton = distcp.plan_skeleton([TensorSpec(each.name, each.dtype, each.shape) for each in tensors])
        return skeleton.size_bytes, tuple([each.file_offset for each in skeleton.tensors])

    def _ordered(self, numbers: list[int]) -> list[int]:
        return sorted(numbers, key=lambda number: self._target.tensors[number].file_offset)

    def _begun(self, file: int, numbers: list[int]) -> FileHash:
        tensors = [self._target.tensors[number] for number in numbers]
        stored = [StoredTensor(each.name, each.dtype, each.shape, each.file_offset) for each in tensors]
        own: Mapping[str, int] = {each.name: self._target.numbers[number] for number, each in zip(numbers, tensors, strict=True)}

        def crc_of(tensor: StoredTensor) -> int:
            return self._digests.whole(own[tensor.name], tensor.size_bytes, tensor.name)

        def read_back(start: int, stop: int) -> Iterator[memoryview]:
            return self._read(file, start, stop)

        return FileHash(self._target.files[file].size_bytes, stored, crc_of, read_back)

    def _read(self, file: int, start: int, stop: int) -> Iterator[memoryview]:
        memory = memoryview(bytearray(min(CHUNK_BYTES, stop - start)))
        while start < stop:
            try:
                descriptor, _ = self._files.descriptor(file)
                count = os.preadv(descriptor, [memory[: stop - start]], start)
            except OSError as error:
                raise storage_error(error, self._target.files[file].path, "reading") from error
            if not count:
                raise storage_error(OSError("it is shorter than it was made"), self._target.files[file].path, "reading")
            yield memory[:count]
            start += count
            self.bytes_read += count


def hash_file(descriptor: int) -> str:
    """The hash in hex of a whole open file. Raises OSError."""
    digest, memory, at = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES)), 0
    while count := os.preadv(descriptor, [memory], at):
        digest.update(memory[:count])
        at += count
    return digest.hexdigest()
