"""Reads written regions back and compares them with the digests taken while writing."""

from __future__ import annotations

from collections.abc import Callable

from convsvc.errors import VerifyError
from convsvc.execute.disk.io import Reader
from convsvc.execute.steps.alignment import aligned_bytes
from convsvc.execute.task_files import Side
from convsvc.formats.zip.crc import crc32
from convsvc.plan.records import PlannedTensor

CHUNK_BYTES = 8 << 20


def verify_regions(target: Side, regions: dict[str, list[list[int]]], reader: Reader, check_wanted: Callable[[], None]) -> None:
    """Re-reads every region (of the plan's tensor numbers, as `Digests.as_json` gives them).

    Raises VerifyError with the tensor, its file and the byte range for the first region that differs.
    """
    tensors = dict(zip(target.numbers, target.tensors, strict=True))
    buffer = aligned_bytes(CHUNK_BYTES).data
    for number, items in regions.items():
        tensor = tensors[int(number)]
        for start, size_bytes, crc in items:
            check_wanted()
            if _read_crc(tensor, start, size_bytes, reader, buffer) != crc:
                raise _differs(target, tensor, start, size_bytes)


def _read_crc(tensor: PlannedTensor, start: int, size_bytes: int, reader: Reader, buffer: memoryview) -> int:
    crc = 0
    for at in range(start, start + size_bytes, CHUNK_BYTES):
        chunk = buffer[: min(CHUNK_BYTES, start + size_bytes - at)]
        reader.read_into(tensor.file, tensor.file_offset + at, chunk)
        crc = crc32(chunk, crc)
    return crc


def _differs(target: Side, tensor: PlannedTensor, start: int, size_bytes: int) -> VerifyError:
    file_offset = tensor.file_offset + start
    path = target.files[tensor.file].path
    return VerifyError(
        f"tensor {tensor.name} in {path} is not what was written",
        facts=[f"bytes {file_offset}:{file_offset + size_bytes} of the file have another checksum than when they were written"],
        do="check the storage, then run the job again",
        details={"tensor": tensor.name, "path": path, "file_offset": file_offset, "size_bytes": size_bytes},
    )
