"""Compares computed bytes with those that lie in a file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convsvc.errors import VerifyError
from convsvc.execute.disk.io import Reader
from convsvc.execute.steps.alignment import aligned_bytes
from convsvc.execute.steps.records import WritePlace
from convsvc.execute.task_files import Side
from convsvc.tensors.dtypes import size_of

Bytes = npt.NDArray[np.uint8]
CHUNK_BYTES = 8 << 20


class Comparison:
    """Of computed bytes with those that `there` reads from the target's files, with two buffers of a chunk for all of a task's."""

    def __init__(self, target: Side, there: Reader) -> None:
        self._target, self._there = target, there
        self._found, self._differs = aligned_bytes(CHUNK_BYTES), aligned_bytes(CHUNK_BYTES).view(np.bool_)

    def compare(self, place: WritePlace, data: memoryview) -> None:
        """Raises VerifyError, with the first element that differs, unless `data` lies at `place`."""
        tensor = self._target.tensors[place.tensor]
        for start in range(0, len(data), CHUNK_BYTES):
            expected = np.frombuffer(data[start : start + CHUNK_BYTES], np.uint8)
            found = self._found[: expected.size]
            self._there.read_into(tensor.file, tensor.file_offset + place.data_offset + start, found.data)
            if np.not_equal(expected, found, out=self._differs[: expected.size]).any():
                raise _differs(self._target, WritePlace(place.tensor, place.data_offset + start), expected, found)


def _differs(target: Side, place: WritePlace, converted: Bytes, original: Bytes) -> VerifyError:
    tensor = target.tensors[place.tensor]
    itemsize = size_of(tensor.dtype)
    first = int(np.flatnonzero(converted != original)[0]) // itemsize * itemsize
    data_offset = place.data_offset + first
    index = [int(i) for i in np.unravel_index(data_offset // itemsize, tensor.shape)] if tensor.shape else []
    expected, found = (bytes(side[first : first + itemsize]).hex() for side in (original, converted))
    path, file_offset = target.files[tensor.file].path, tensor.file_offset + data_offset
    return VerifyError(
        f"converting back does not give tensor {tensor.name} of {path}",
        facts=[
            f"first difference at {index}, byte {file_offset} of the file",
            f"expected {expected}, found {found} ({tensor.dtype})",
        ],
        do="this is a fault of the conversion: please report it with the job and its plan",
        details={
            "tensor": tensor.name,
            "path": path,
            "index": index,
            "file_offset": file_offset,
            "expected": expected,
            "found": found,
        },
    )
