"""Every element of every target tensor is computed again from the source and compared with what lies there: each place, and padding.

This is the plan carried out once more, without writing. So it holds for jobs that change values too, and the CRC-32 that comes out is that
of what the job writes, which the files' own checksums must be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing

import numpy as np
import numpy.typing as npt

from convsvc.errors import SourceChanged, VerifyError
from convsvc.execute.check.copies import Checker, source_differs
from convsvc.execute.check.digests import Digests, Region
from convsvc.execute.check.padding import check_padding
from convsvc.execute.disk.io import Reader
from convsvc.execute.pipeline import Tiles
from convsvc.execute.steps.alignment import aligned_bytes
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.inputs import Read
from convsvc.execute.steps.records import Tensors, Write, WritePlace
from convsvc.execute.task_files import Side, TaskFile, extract_task
from convsvc.execute.worker import BUDGET, Workplace, compare_task
from convsvc.formats.zip.crc import crc32, crc32_zeros
from convsvc.plan.plan import Plan
from convsvc.plan.records import Fill, Task
from convsvc.tensors.dtypes import size_of

Bytes = npt.NDArray[np.uint8]
CHUNK_BYTES = 8 << 20


def compare_tensors(plan: Plan, directory: int, told: Callable[[int, int], None]) -> dict[int, int]:
    """The CRC-32 of every target tensor, by its number, once all of them are what the plan writes to `directory`, which is open.

    `told` is called after each task with its number and the bytes that were read for it. Raises VerifyError at the first difference.
    """
    tables = (plan.source_files, plan.source_tensors), (plan.target_files, plan.target_tensors)
    digests = Digests()
    for task in plan.tasks:
        told(task.id, _compare_task(extract_task(task, plan.fingerprint, *tables), plan, directory, digests))
    files = plan.target_files
    return {n: digests.whole(n, t.size_bytes, f"{files[t.file].path}/{t.name}") for n, t in enumerate(plan.target_tensors)}


def compare_back(plan: Plan, tasks: Iterable[Task], directory: int, told: Callable[[int, int], None]) -> None:
    """Computes the source from the target with the plan's reverse tasks. Raises VerifyError at the first difference."""
    written, read = (plan.target_files, plan.target_tensors), (plan.source_files, plan.source_tensors)
    place = Workplace(directory, "verify", roots=plan.roots)
    for task in tasks:
        told(task.id, compare_task(extract_task(task, plan.fingerprint, written, read), place).bytes_read)


def _compare_task(task_file: TaskFile, plan: Plan, directory: int, digests: Digests) -> int:
    source, target = task_file.source, task_file.target
    tensors = Tensors(source.tensors, target.tensors)
    steps = (step for transfer in task_file.task.transfers for step in compile_steps(transfer, tensors, BUDGET))
    reader, there = Reader(source.files, directory, plan.roots), Reader(target.files, directory, plan.roots)
    tiles = Tiles(reader, BUDGET, Checker(reader, source, source_differs, lambda: None))
    with closing(reader), closing(there), closing(tiles.produce(steps)) as produced:
        comparison = _Comparison(target, there, digests)
        for write, data in produced:
            comparison.compare(write, data)
        for transfer in task_file.task.transfers:
            for fill in transfer.fills:
                comparison.compare_fill(fill)
            # What was dropped as padding must still be that; a job that took more for padding has said so when it ran.
            check_padding(transfer, source, reader, plan.job.get("options", {}).get("on_loss") == "note", lambda: None)
        reader.check_unchanged()
        return reader.bytes_read + there.bytes_read


class _Comparison:
    """Of what is computed with what `there` reads, with one buffer of a chunk for all of a task's."""

    def __init__(self, target: Side, there: Reader, digests: Digests) -> None:
        self._target, self._there, self._digests = target, there, digests
        self._buffer = aligned_bytes(CHUNK_BYTES)
        self._zeros = np.zeros(0, np.uint8)

    def compare(self, write: Write, data: memoryview) -> None:
        """All places of a write; its bytes count for the digests of their tensors."""
        size = write.size_bytes
        crcs = [crc32(data[start : start + size]) for start in range(0, len(data), size)]
        for place in write.places:
            number = self._target.numbers[place.tensor]
            for n, crc in enumerate(crcs):
                self._digests.add(number, Region(place.data_offset + n * write.step_bytes, size, crc))
            # Short runs are read many at once, long ones in pieces.
            many = max(1, CHUNK_BYTES // max(1, size))
            for n in range(0, write.times, many):
                times = min(many, write.times - n)
                at = WritePlace(place.tensor, place.data_offset + n * write.step_bytes)
                self._compare_runs(at, data[n * size : (n + times) * size], size, write.step_bytes)

    def compare_fill(self, fill: Fill) -> None:
        """Padding that is declared as zeros."""
        itemsize = size_of(self._target.tensors[fill.tensor].dtype)
        start, size = fill.offset * itemsize, fill.count * itemsize
        self._digests.add(self._target.numbers[fill.tensor], Region(start, size, crc32_zeros(size)))
        if not self._zeros.size:
            self._zeros = np.zeros(CHUNK_BYTES, np.uint8)
        for at in range(0, size, CHUNK_BYTES):
            part = self._zeros[: min(CHUNK_BYTES, size - at)]
            self._compare_runs(WritePlace(fill.tensor, start + at), part.data, part.size, 0)

    def _compare_runs(self, place: WritePlace, data: memoryview, size: int, step: int) -> None:
        """Runs of `size` bytes, `step` apart in the tensor, which follow on each other in `data`."""
        for start in range(0, len(data), CHUNK_BYTES):
            expected = data[start : start + CHUNK_BYTES]
            times = max(1, len(expected) // max(1, size))
            found = self._read(place, start, len(expected) // times, times, step)
            if found.data != expected:
                first = int(np.flatnonzero(found != np.frombuffer(expected, np.uint8))[0])
                run, at = divmod(first, len(expected) // times)
                raise self._differs(place.tensor, place.data_offset + start + run * step + at, first, expected, found)

    def _read(self, place: WritePlace, start: int, size: int, times: int, step: int) -> Bytes:
        tensor = self._target.tensors[place.tensor]
        found = self._buffer[: size * times]
        try:
            self._there.read(Read(tensor.file, tensor.file_offset + place.data_offset + start, size, 0, times, step), found.data)
        except SourceChanged as error:
            raise VerifyError(error.message.replace("the source", "the target"), facts=error.facts, details=error.details) from error
        return found

    def _differs(self, number: int, data_offset: int, first: int, expected: memoryview, found: Bytes) -> VerifyError:
        tensor = self._target.tensors[number]
        path, itemsize = self._target.files[tensor.file].path, size_of(tensor.dtype)
        element = first // itemsize * itemsize
        index = [int(i) for i in np.unravel_index(data_offset // itemsize, tensor.shape)] if tensor.shape else []
        wanted, have = (bytes(side[element : element + itemsize]).hex() for side in (expected, found.data))
        file_offset = tensor.file_offset + data_offset // itemsize * itemsize
        return VerifyError(
            f"tensor {tensor.name} in {path} is not what this job writes",
            facts=[
                f"first difference at {index}, byte {file_offset} of the file",
                f"expected {wanted}, found {have} ({tensor.dtype}, bytes in hex)",
            ],
            do="the target was changed or damaged since, or is of another job or version: run the job again",
            details={
                "tensor": tensor.name, "path": path, "index": index, "file_offset": file_offset, "expected": wanted, "found": have,
            },
        )  # fmt: skip
