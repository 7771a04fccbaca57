"""How far running tasks are: what workers note, and what the driver reads of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from convsvc.execute.staging.marks import MOVED
from convsvc.execute.staging.moved import Moved, read_moved


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[int]:
    (tmp_path / MOVED).mkdir(parents=True)
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_the_first_word_is_written_at_once_and_then_one_a_second(staging: int) -> None:
    times = iter([0.0, 0.0, 0.5, 1.0])
    moved = Moved(staging, "write", 3, clock=lambda: next(times))
    moved.note(10)
    assert read_moved(staging, "write", [2, 3]) == {3: 10}
    moved.note(20)
    assert read_moved(staging, "write", [3]) == {3: 10}
    moved.note(5)  # never a rest of a longer number
    assert read_moved(staging, "write", [3]) == {3: 5}


def test_what_cannot_be_written_or_read_is_left_out(staging: int, tmp_path: Path) -> None:
    (tmp_path / MOVED / "write-1").write_text("nonsense")
    (tmp_path / MOVED / "write-2").symlink_to(tmp_path / "elsewhere")
    Moved(staging, "write", 2).note(7)
    assert not (tmp_path / "elsewhere").exists()
    assert read_moved(staging, "write", [1, 2]) == {}
    (tmp_path / MOVED / "write-1").unlink()
    (tmp_path / MOVED / "write-2").unlink()
    (tmp_path / MOVED).rmdir()
    Moved(staging, "write", 1).note(7)
