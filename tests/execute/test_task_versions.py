"""A worker does the tasks of its own version, and says of others that it does not know them: another machine may."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from convsvc.engine.base import Call
from convsvc.engine.calling import run_call
from convsvc.errors import PlaceUnfit
from convsvc.execute.staging.task_pack import read_task, write_pack
from convsvc.execute.staging.workspace import Staging
from convsvc.execute.task_files import TASK_VERSION, Side, TaskFile, load_task
from convsvc.execute.worker import run_task
from convsvc.plan import records
from tests.execute.handmade import make_handmade

# What a task file is made of, by its version: a hash of the records' fields. Whoever changes a record, or what a number of it means, lets
# TASK_VERSION grow and adds a line, so that a worker of the version before refuses the file instead of reading it in its own way.
SHAPES = {1: "d0e32fe6f4d281ee", 2: "03a4848e08e0a289", 3: "7b36c9bf802fae79", 4: "a0df0395f8f1e836"}
RECORDS = ("Task", "Transfer", "Transform", "Operand", "View", "Place", "Fill", "PlannedFile", "PlannedTensor", "Coded", "Form")


def shape() -> str:
    kinds = (TaskFile, Side, *(getattr(records, name) for name in RECORDS))
    said = {each.__name__: [(name, str(kind)) for name, kind in each.__annotations__.items()] for each in kinds}
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def test_the_version_of_task_files_grows_with_what_they_are_made_of() -> None:
    assert SHAPES.get(TASK_VERSION) == shape(), (
        f"the records of a task have changed: let TASK_VERSION grow, and add {TASK_VERSION + 1}: {shape()!r} to SHAPES"
    )
    assert max(SHAPES) == TASK_VERSION
    assert len(set(SHAPES.values())) == len(SHAPES)


@pytest.mark.parametrize("version", [None, 0, TASK_VERSION + 1, "1"])
def test_a_task_file_of_another_version_is_refused_in_words_and_nothing_is_written(version: object, tmp_path: Path) -> None:
    made = make_handmade(tmp_path)
    with Staging.open(made.plan, "error") as staging:
        directory = os.open(staging.path, os.O_RDONLY | os.O_DIRECTORY)
        raw = json.loads(read_task(directory, "write", 0))
        other = json.dumps({**raw, "version": version, "transfers": "of another kind"}).encode()
        write_pack(directory, "write", made.plan.fingerprint, [(0, other)], lambda: None)
        os.close(directory)
        with pytest.raises(PlaceUnfit, match=f"reads task files of version {TASK_VERSION}, this one is of version"):
            run_task({"staging": str(staging.path), "task": 0, "mode": "write", "fence": staging.fence})
        assert staging.pending("write") == [0, 1]
    with pytest.raises(PlaceUnfit):
        load_task(b"{}")


def test_a_task_of_another_version_of_convsvc_or_of_a_mode_that_nobody_knows_is_refused_in_words(tmp_path: Path) -> None:
    made = make_handmade(tmp_path)
    with Staging.open(made.plan, "error") as staging:
        payload = {"staging": str(staging.path), "task": 0, "mode": "write", "fence": staging.fence}
        with pytest.raises(PlaceUnfit, match=r"the job was planned by 99\.0"):
            run_task({**payload, "version": "99.0"})
        with pytest.raises(PlaceUnfit, match="knows no task of mode 'polish'"):
            run_task({**payload, "mode": "polish"})


@pytest.mark.parametrize("function", ["convsvc.tomorrow:run", "convsvc.execute.worker:run_tomorrow"])
def test_a_call_of_a_function_that_is_not_there_is_for_another_machine(function: str) -> None:
    outcome = run_call(Call("c", function, {}, 10), "worker", "place")
    assert outcome.error is not None
    assert outcome.error["type"] == "PlaceUnfit"
    assert f"cannot do {function}" in outcome.error["message"]
