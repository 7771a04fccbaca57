"""What of a training run's directory is an iteration, and which of them training has finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convsvc.dialects import source_of
from convsvc.dialects.iterations import numbered_folders, tracked
from convsvc.roots import RootedPath


def found(format_name: str, run: Path) -> list[tuple[int, str, bool]]:
    return [(one.number, one.folder, one.is_finished) for one in source_of(format_name).iterations(RootedPath(str(run)))]


def folders(run: Path, *names: str, file: str = "config.json") -> Path:
    for name in names:
        (run / name).mkdir(parents=True)
        (run / name / file).write_text("{}")
    return run


@pytest.mark.parametrize("name", ["checkpoint-500", "global_step_500", "step-500", "epoch_2_step_500", "500", "0000500"])
def test_a_directory_is_an_iteration_by_the_number_at_the_end_of_its_name(tmp_path: Path, name: str) -> None:
    assert numbered_folders(RootedPath(str(folders(tmp_path, name)))) == {500: name}


@pytest.mark.parametrize("name", ["tmp-checkpoint-500", "checkpoint", "checkpoint-500.tmp", "x500", "-500", ".checkpoint-500", "1" * 13])
def test_other_names_are_none(tmp_path: Path, name: str) -> None:
    assert numbered_folders(RootedPath(str(folders(tmp_path, name)))) == {}


def test_a_file_is_no_iteration(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").write_text("")
    assert numbered_folders(RootedPath(str(tmp_path))) == {}


def test_without_a_tracker_a_hugging_face_run_finishes_what_it_has_and_with_one_what_it_says(tmp_path: Path) -> None:
    run = folders(tmp_path, "checkpoint-1", "checkpoint-10", "checkpoint-2")
    (run / "checkpoint-3").mkdir()  # nothing of this format in it yet
    assert found("huggingface", run) == [(1, "checkpoint-1", True), (2, "checkpoint-2", True), (10, "checkpoint-10", True)]
    (run / "latest_checkpointed_iteration.txt").write_text("2")
    assert [one[2] for one in found("huggingface", run)] == [True, True, False]


@pytest.mark.parametrize("name", ["mindspeed-llm", "mindspeed-mm"])
def test_rank_files_are_whole_as_far_as_the_tracker_goes_and_not_before_there_is_one(tmp_path: Path, name: str) -> None:
    run = folders(tmp_path, "iter_0000100", "iter_0000200", "release", file="x")
    assert [one[2] for one in found(name, run)] == [False, False]
    (run / "latest_checkpointed_iteration.txt").write_text("100\n")
    assert found(name, run) == [(100, "iter_0000100", True), (200, "iter_0000200", False)]
    says = source_of(name).iterations(RootedPath(str(run)))[0].says
    assert says == {"path": str(run), "iteration": "100"}


def test_mindformers_iterations_go_by_its_tracker_and_its_own_word(tmp_path: Path) -> None:
    run = folders(tmp_path, "iteration_00000010", "iteration_00000020", file="metadata.json")
    (run / "latest_checkpointed_iteration.txt").write_text("10")
    assert found("mindformers", run) == [(10, "iteration_00000010", True), (20, "iteration_00000020", False)]
    assert source_of("mindformers").iterations(RootedPath(str(run)))[0].says["file_suffix"] == "10"


@pytest.mark.parametrize(("text", "last"), [("100", 100), (" 7\n", 7), ("", -1), ("release", -1), ("1e3", -1), ("9" * 40, -1)])
def test_a_tracker_that_names_no_number_finishes_nothing(tmp_path: Path, text: str, last: Any) -> None:
    assert tracked(RootedPath(str(tmp_path))) is None
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
    assert tracked(RootedPath(str(tmp_path))) == last
