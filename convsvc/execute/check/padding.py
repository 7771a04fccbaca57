"""Looks at rows that belong to no logical tensor: what is dropped as padding must be padding, what was filled must be zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import numpy as np
import numpy.typing as npt

from convsvc.errors import SourceError, VerifyError
from convsvc.execute.disk.io import Reader
from convsvc.execute.steps.alignment import aligned_bytes
from convsvc.execute.task_files import Side
from convsvc.notes import Note
from convsvc.plan.records import Fill, PlannedTensor, Transfer
from convsvc.tensors.dtypes import size_of

Bytes = npt.NDArray[np.uint8]
CHUNK_BYTES = 4 << 20


def check_padding(transfer: Transfer, side: Side, reader: Reader, allowed: bool, check_wanted: Callable[[], None]) -> list[Note]:
    """A note of kind `lost` if the rows that the transfer drops as padding are neither all zeros nor all alike, in all of its tensors.

    Raises SourceError instead, unless the job allows it.
    """
    first: Bytes | None = None
    for run in transfer.padding:
        tensor = side.tensors[run.tensor]
        for offset, rows in _rows_of(run, tensor, reader, check_wanted):
            first = rows[0].copy() if first is None else first
            differs = rows != first
            if differs.any():
                row = offset + int(differs.any(axis=1).argmax())
                text = _lost(transfer.name, tensor, side.files[tensor.file].path, row, sum(each.count for each in transfer.padding))
                if allowed:
                    return [Note("lost", text)]
                raise SourceError(
                    text,
                    do="state options.vocab_size if these rows are of the vocabulary; "
                    'set options.on_loss to "note" to convert without them',
                    details={"tensor": transfer.name, "stored": tensor.name, "path": side.files[tensor.file].path, "row": row},
                )
    return []


def check_zeros(transfer: Transfer, side: Side, reader: Reader, check_wanted: Callable[[], None]) -> None:
    """Raises VerifyError where a written tensor's padding is anything but zeros."""
    for run in transfer.padding:
        tensor = side.tensors[run.tensor]
        for row, rows in _rows_of(run, tensor, reader, check_wanted):
            bad = rows.any(axis=1)
            if bad.any():
                at, path = row + int(bad.argmax()), side.files[tensor.file].path
                raise VerifyError(
                    f"the padding of {tensor.name} of {path} is not zeros",
                    facts=[f"row {at} is the first that holds something"],
                    do="the target has changed since it was written: convert it again",
                    details={"tensor": tensor.name, "path": path, "row": at},
                )


def _lost(name: str, tensor: PlannedTensor, path: str, row: int, count: int) -> str:
    rows = count // _row_elements(tensor)
    return (
        f"{name}: the {rows} rows beyond the vocabulary are dropped as padding, and they hold values: neither zeros nor all alike "
        f"(row {row} of {tensor.name} of {path} is the first that differs)"
    )


def _rows_of(run: Fill, tensor: PlannedTensor, reader: Reader, check_wanted: Callable[[], None]) -> Iterator[tuple[int, Bytes]]:
    """The run in chunks: (the first one's number in the stored tensor, rows x bytes). Padding is whole rows of the first axis."""
    itemsize, elements = size_of(tensor.dtype), _row_elements(tensor)
    row_bytes = elements * itemsize
    most = max(1, CHUNK_BYTES // row_bytes)
    memory = aligned_bytes(min(most * row_bytes, run.count * itemsize))
    first, rows = run.offset // elements, run.count // elements
    for at in range(0, rows, most):
        check_wanted()
        count = min(most, rows - at)
        data = memory[: count * row_bytes]
        reader.read_into(tensor.file, tensor.file_offset + (first + at) * row_bytes, data.data)
        yield first + at, data.reshape(count, row_bytes)


def _row_elements(tensor: PlannedTensor) -> int:
    return prod(tensor.shape[1:])
