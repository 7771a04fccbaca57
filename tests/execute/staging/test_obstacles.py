"""What would make a job fail at its target is found ahead of it, in the words in which it would fail, and nothing is touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from convsvc.errors import ConvsvcError, NoSpace
from convsvc.execute.staging import obstacles, room
from convsvc.execute.staging.obstacles import find_obstacles
from convsvc.execute.staging.workspace import Staging
from tests.execute.handmade import Handmade, make_handmade


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    return make_handmade(tmp_path)


def kinds(made: Handmade) -> list[str]:
    return [type(error).__name__ for error in find_obstacles(made.plan)]


def overwriting(made: Handmade) -> Handmade:
    return made.with_plan(job={**made.plan.job, "options": {**made.plan.job.get("options", {}), "on_exists": "overwrite"}})


def tree(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_target_that_is_free_has_no_obstacles_and_nothing_is_made(made: Handmade, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert find_obstacles(made.plan) == []
    assert tree(tmp_path) == before


def test_a_target_that_is_there_is_said_as_it_would_be_when_it_is_opened(made: Handmade, tmp_path: Path) -> None:
    made.target.mkdir(parents=True)
    assert kinds(made) == []
    (made.target / "results.csv").write_text("precious")
    before = tree(tmp_path)
    for kind, on_exists in ((made, "error"), (overwriting(made), "overwrite")):
        with pytest.raises(ConvsvcError) as caught:
            Staging.open(kind.plan, on_exists)
        (found,) = find_obstacles(kind.plan)
        assert found.as_dict() == caught.value.as_dict()
    assert tree(tmp_path) == before


def test_a_file_at_the_targets_name_is_in_the_way(made: Handmade) -> None:
    made.target.parent.mkdir(parents=True, exist_ok=True)
    made.target.write_text("a file")
    assert kinds(made) == ["TargetExists"]


def test_a_target_that_a_process_of_this_machine_writes_is_busy_and_one_whose_writer_is_dead_is_not(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as staging:
        (busy,) = find_obstacles(made.plan)
        assert f"process {os.getpid()} on" in busy.message
        lock = made.target.with_name(".target.convsvc-lock")
        says = lock.read_text()
        lock.write_text(says.replace(f'"pid": {os.getpid()}', '"pid": 4194303'))
        assert kinds(made) == []
        lock.write_text(says)
        staging.discard()


def test_a_file_system_without_room_is_said_and_what_is_staged_already_counts(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_free", lambda directory: 1000)
    (full,) = find_obstacles(made.plan)
    assert isinstance(full, NoSpace)
    assert full.details["available"] == 1000


def test_a_directory_that_cannot_be_written_is_said(made: Handmade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstacles.os, "access", lambda path, mode, **more: False)
    (unwritable,) = find_obstacles(made.plan)
    assert f"{tmp_path} is not writable" in unwritable.message


def test_every_obstacle_is_said_not_only_the_first_one(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_free", lambda directory: 1000)
    made.target.mkdir(parents=True)
    (made.target / "results.csv").write_text("precious")
    assert kinds(made) == ["TargetExists", "NoSpace"]
