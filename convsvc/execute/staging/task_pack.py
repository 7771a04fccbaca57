"""All tasks of one mode in one file: a plan of thousands would make thousands of small files, which shared storage is slowest at.

    documents, one after the other | index, JSON: {"key", "tasks": {number: [offset, size, CRC-32]}} | footer

The footer is the index's size and CRC-32, little-endian, and eight fixed bytes. A pack appears whole, by a rename after a sync, so one that
has the key of the plan, and of the version that wrote it, is not written again when its job is gone on with.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from convsvc.errors import StorageError
from convsvc.execute.disk.faults import storage_error
from convsvc.execute.staging.marks import pack_path
from convsvc.formats.zip.crc import crc32
from convsvc.roots.beneath import open_beneath, parent_beneath

FOOTER = struct.Struct("<QI8s")
MAGIC = b"convpack"
# So many bytes are written at once.
_CHUNK = 4 << 20

At = list[int]  # [offset, size, CRC-32] of a task's document


def write_pack(directory: int, mode: str, key: str, documents: Iterable[tuple[int, bytes]], check: Callable[[], object]) -> dict[int, At]:
    """Writes the pack of a mode in the staging directory; where each task is. `check` is called between documents, and may raise.

    Raises OSError.
    """
    with parent_beneath(directory, pack_path(mode)) as (parent, name):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(f"{name}.tmp", flags, 0o600, dir_fd=parent), "wb", buffering=_CHUNK) as file:
            index = _write_all(file, key, documents, check)
        os.replace(f"{name}.tmp", name, src_dir_fd=parent, dst_dir_fd=parent)
    return index


def read_index(directory: int, mode: str, key: str | None = None) -> dict[int, At] | None:
    """Where each task is in the pack that is there; None if there is none, it is not whole, or it is another key's.

    Raises OSError.
    """
    try:
        descriptor = open_beneath(directory, pack_path(mode), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        found = _index(descriptor)
    finally:
        os.close(descriptor)
    if found is None or key not in (None, found["key"]):
        return None
    return {int(number): at for number, at in found["tasks"].items()}


def read_task(directory: int, mode: str, task: int, at: At | None = None) -> bytes:
    """The task's document. Without `at` the pack's index says where it is. Raises StorageError where it is not there or is damaged."""
    path = pack_path(mode)
    try:
        at = at or (read_index(directory, mode) or {}).get(task)
        if at is None:
            raise StorageError(f"task {task} is not in {path} of the staging directory", do="was the job canceled or run again?")
        descriptor = open_beneath(directory, path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, at[1], at[0])
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise StorageError(f"{path} is gone from the staging directory", do="was the job canceled or run again?") from None
    except OSError as error:
        raise storage_error(error, path, "reading") from error
    if len(data) != at[1] or crc32(data) != at[2]:
        raise StorageError(f"task {task} in {path} of the staging directory is damaged", do="look at the storage, then run the job again")
    return data


def _write_all(file: BinaryIO, key: str, documents: Iterable[tuple[int, bytes]], check: Callable[[], object]) -> dict[int, At]:
    index, offset = dict[int, At](), 0
    for number, data in documents:
        check()
        index[number] = [offset, len(data), crc32(data)]
        offset += file.write(data)
    written = json.dumps({"key": key, "tasks": index}, separators=(",", ":")).encode()
    file.write(written + FOOTER.pack(len(written), crc32(written), MAGIC))
    file.flush()
    os.fsync(file.fileno())
    return index


def _index(descriptor: int) -> dict[str, Any] | None:
    size = os.fstat(descriptor).st_size
    if size < FOOTER.size:
        return None
    length, crc, magic = FOOTER.unpack(os.pread(descriptor, FOOTER.size, size - FOOTER.size))
    if magic != MAGIC or length > size - FOOTER.size:
        return None
    written = os.pread(descriptor, length, size - FOOTER.size - length)
    if crc32(written) != crc:
        return None
    found: dict[str, Any] = json.loads(written)
    return found
