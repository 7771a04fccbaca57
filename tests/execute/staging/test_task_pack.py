"""All tasks of a mode are one file, which is whole or not there, and is not written again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from convsvc.errors import Canceled, StorageError
from convsvc.execute.staging.marks import TASKS, pack_path
from convsvc.execute.staging.task_pack import read_index, read_task, write_pack

DOCUMENTS = [(7, b"seven"), (0, b""), (12, b"twelve" * 1000)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / TASKS).mkdir(parents=True)
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def write(folder: int, key: str = "k") -> dict[int, list[int]]:
    return write_pack(folder, "write", key, DOCUMENTS, lambda: None)


def test_every_task_comes_back_with_and_without_its_place(folder: int) -> None:
    index = write(folder)
    assert read_index(folder, "verify", "k") == index, "verifying reads what writing wrote"
    for number, data in DOCUMENTS:
        assert read_task(folder, "write", number, index[number]) == data
        assert read_task(folder, "verify", number) == data
    assert read_index(folder, "compare") is None


def test_a_pack_of_another_plan_or_version_is_not_taken(folder: int) -> None:
    write(folder, "another")
    assert read_index(folder, "write", "k") is None


def test_a_task_that_is_not_there_is_named(folder: int) -> None:
    with pytest.raises(StorageError, match="task 1 is not in"):
        read_task(folder, "write", 1)
    write(folder)
    with pytest.raises(StorageError, match="task 1 is not in"):
        read_task(folder, "write", 1)


def test_every_damaged_byte_is_noticed_and_so_is_every_missing_one(folder: int, tmp_path: Path) -> None:
    index, path = write(folder), tmp_path / pack_path("write")
    whole = path.read_bytes()
    for at in (*range(5), *range(sum(len(data) for _, data in DOCUMENTS), len(whole))):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if at < 5:
            with pytest.raises(StorageError, match="damaged"):
                read_task(folder, "write", 7, index[7])
        else:
            assert read_index(folder, "write", "k") is None, at
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        assert read_index(folder, "write", "k") is None


def test_a_pack_whose_writing_is_stopped_is_not_there(folder: int) -> None:
    def stop() -> None:
        raise Canceled("stop")

    with pytest.raises(Canceled):
        write_pack(folder, "write", "k", DOCUMENTS, stop)
    assert read_index(folder, "write") is None
