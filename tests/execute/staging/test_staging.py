"""The staging directory: what it is called, who may see it, what it never touches."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from convsvc.errors import SourceChanged, TargetError, TargetExists
from convsvc.execute.staging.sites import staging_path
from convsvc.execute.staging.workspace import Staging
from convsvc.execute.task_files import dump_task, extract_task, load_task
from convsvc.execute.worker import run_task
from convsvc.plan.records import Operand, Transform
from tests.execute.handmade import Handmade, make_handmade


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    return make_handmade(tmp_path)


def write_all(staging: Staging) -> None:
    for task in staging.pending("write"):
        run_task({"staging": str(staging.path), "task": task, "mode": "write", "attempt": "a"})


def finish(staging: Staging) -> None:
    write_all(staging)
    staging.seal()
    staging.publish()


def test_parents_are_made_and_the_staging_directory_is_private(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as staging:
        assert staging.path == made.target.parent / ".target.convsvc"
        assert staging.path.stat().st_mode & 0o777 == 0o700
        assert not (staging.path / "latest.txt").exists()


def test_a_published_target_has_the_modes_of_any_new_directory(made: Handmade) -> None:
    old = os.umask(0o027)
    try:
        with Staging.open(made.plan, "error") as staging:
            finish(staging)
    finally:
        os.umask(old)
    assert made.target.stat().st_mode & 0o777 == 0o750
    assert (made.target / "rank").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in made.target.rglob("*") if path.is_file()} == {0o640}


def test_the_lock_of_a_dead_process_is_free(made: Handmade) -> None:
    made.target.parent.mkdir()
    lock = made.target.parent / ".target.convsvc-lock"
    script = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, str(lock)], check=False)
    assert lock.exists()
    with Staging.open(made.plan, "error") as staging:
        finish(staging)
    made.check_target()


def test_an_old_target_comes_back_after_a_crash_between_the_two_renames(made: Handmade) -> None:
    aside = made.target.with_name(".target.convsvc-old")
    aside.mkdir(parents=True)
    (aside / "old").write_text("old")
    with pytest.raises(TargetExists):
        Staging.open(made.plan, "error")
    assert (made.target / "old").read_text() == "old"
    assert not aside.exists()


def test_a_target_that_is_a_file_is_refused_even_for_overwriting(made: Handmade) -> None:
    made.target.parent.mkdir()
    made.target.write_text("mine")
    with pytest.raises(TargetExists, match="is a file"):
        Staging.open(made.plan, "overwrite")
    assert made.target.read_text() == "mine"


def test_a_parent_that_is_a_file_is_a_target_error(made: Handmade) -> None:
    made.target.parent.write_text("mine")
    with pytest.raises(TargetError, match="cannot be written"):
        Staging.open(made.plan, "error")


def test_a_source_inside_the_target_is_never_overwritten(made: Handmade) -> None:
    inside = replace(made.plan, job={"target": {"path": str(made.source_files[0].parent)}})
    with pytest.raises(TargetError, match="lies in the target"):
        Staging.open(inside, "overwrite")
    assert made.source_files[0].exists()


def test_a_target_behind_a_link_is_written_where_the_link_leads(made: Handmade, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    made.target.parent.mkdir()
    made.target.symlink_to(real)
    with Staging.open(made.plan, "error") as staging:
        assert staging.path == staging_path(real)
        finish(staging)
    assert made.target.is_symlink()
    made.check_target()


def test_a_file_to_copy_that_is_gone_is_named(made: Handmade, tmp_path: Path) -> None:
    with Staging.open(made.plan, "error") as staging:
        (tmp_path / "config.json").unlink()
        with pytest.raises(SourceChanged, match=r"config\.json is gone"):
            finish(staging)
    assert not made.target.exists()


def test_a_task_file_holds_what_its_task_touches_and_nothing_else(made: Handmade) -> None:
    plan = made.plan
    tables = (plan.source_files, plan.source_tensors), (plan.target_files, plan.target_tensors)
    rest = extract_task(plan.tasks[1], plan.fingerprint, *tables)
    assert sorted(t.name for t in rest.source.tensors) == ["norm", "vocab"]
    assert [plan.target_tensors[number].name for number in rest.target.numbers] == [t.name for t in rest.target.tensors]
    assert load_task(dump_task(rest)) == rest


def test_a_transforms_operands_survive_the_task_file(made: Handmade) -> None:
    plan = made.plan
    (transfer,) = plan.tasks[0].transfers
    operand = Operand("A", (4, 8), transfer.reads[:1])
    changed = replace(transfer, transform=Transform("lora", {"scale": 0.5, "axes": [[None, 0], [1, None]]}, (operand, operand)))
    task = replace(plan.tasks[0], transfers=(changed,))
    tables = (plan.source_files, plan.source_tensors), (plan.target_files, plan.target_tensors)
    held = extract_task(task, plan.fingerprint, *tables)
    assert load_task(dump_task(held)) == held
