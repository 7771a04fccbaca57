"""A directory in which a late worker still has a file is removed once that is gone."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from convsvc.execute.staging import folders


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(folders.time, "sleep", found.append)
    return found


def stubborn(monkeypatch: pytest.MonkeyPatch, times: int, code: int) -> None:
    """What is removed is there again so many times, as a file is that NFS keeps for whoever has it open."""
    left, rmtree = [code] * times, shutil.rmtree

    def removed(path: Path, **more: Any) -> None:
        if left:
            raise OSError(left.pop(), "not empty", str(path))
        rmtree(path, **more)

    monkeypatch.setattr(folders.shutil, "rmtree", removed)


@pytest.mark.parametrize("code", [errno.ENOTEMPTY, errno.EBUSY, errno.ENOENT])
def test_it_is_tried_for_seconds_with_growing_pauses(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    (tmp_path / "staging").mkdir()
    stubborn(monkeypatch, len(folders.REMOVE_PAUSES_S), code)
    folders.remove(tmp_path / "staging")
    assert not (tmp_path / "staging").exists()
    assert pauses == sorted(pauses)
    assert 5 < sum(pauses) < 15


def test_it_is_given_up_in_the_end_and_another_fault_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    (tmp_path / "staging").mkdir()
    stubborn(monkeypatch, 100, errno.ENOTEMPTY)
    with pytest.raises(OSError, match="not empty"):
        folders.remove(tmp_path / "staging")
    del pauses[:]
    stubborn(monkeypatch, 1, errno.EACCES)
    with pytest.raises(OSError, match="not empty"):
        folders.remove(tmp_path / "staging")
    assert pauses == []
