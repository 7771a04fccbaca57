"""A run that is killed with SIGKILL before any of its changes to storage, and finished by the next one: the same bytes, nothing left."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from convsvc.engine import make_engine
from convsvc.engine.driver import run_plan
from convsvc.execute.publishing import staging_path, tidy_published
from tests.execute.handmade import Handmade, make_handmade, reverse_of
from tests.fault.checkpoints import digests_of, left_beside

SCRIPT = str(Path(__file__).with_name("dying.py"))
OLD = {"old": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}

Die = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def die() -> Iterator[Die]:
    """Runs the plan in a folder until it is killed; says how that went."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, SCRIPT], text=True, **pipes) as process:

        def ask(*words: object) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\t".join(str(word) for word in words) + "\n")
            process.stdin.flush()
            return dict(json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()  # type: ignore[union-attr]  # it was started with a pipe


def prepare(folder: Path, overwrites: bool) -> Handmade:
    folder.mkdir()
    made = make_handmade(folder)
    (folder / "plan.pickle").write_bytes(pickle.dumps(made.plan))
    if overwrites:
        made.target.mkdir(parents=True)
        (made.target / "old").write_text("abc")
    return made


def staged_files(made: Handmade) -> list[tuple[int, int]]:
    """What tells whether the files that hold tensors were touched: wherever they lie now, their inodes and the times of their changes."""
    paths = [place / file.path for place in (staging_path(made.target), made.target) for file in made.plan.target_files]
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.exists()]


def recover(made: Handmade, on_exists: str) -> None:
    """What the executor does about a job whose executor died: see `EngineRunner`."""
    if made.target.is_dir() and not staging_path(made.target).exists() and digests_of(made.target) != OLD:
        tidy_published(made.target)
        return
    with closing(make_engine("inline")) as engine:
        run_plan(made.plan, engine, verify="roundtrip", reverse_tasks=reverse_of(made.plan), on_exists=on_exists)


@pytest.mark.parametrize("overwrites", [False, True], ids=["a new target", "an old target is overwritten"])
def test_killed_before_any_change_to_storage_a_run_is_finished_by_the_next_one(overwrites: bool, die: Die, tmp_path: Path) -> None:
    begin, go_on = ("overwrite", "resume-overwrite") if overwrites else ("error", "resume")
    whole = prepare(tmp_path / "whole", overwrites)
    calls = die(tmp_path / "whole", begin)["calls"]
    right = digests_of(whole.target)
    assert calls > 50
    sealed = False
    for point in range(calls):
        folder = tmp_path / str(point)
        made = prepare(folder, overwrites)
        assert die(folder, begin, point)["status"] == signal.SIGKILL
        if made.target.exists():
            assert digests_of(made.target) in ([right, OLD] if overwrites else [right]), f"half a target is to be seen after call {point}"
        found = staged_files(made)
        sealed = sealed or (staging_path(made.target) / ".convsvc" / "sealed").exists()
        recover(made, go_on)
        if sealed:
            assert staged_files(made) == found, f"a sealed file was made or written again after call {point}"
        assert digests_of(made.target) == right, f"other bytes after call {point}"
        assert left_beside(made.target.parent) == [], f"something is left after call {point}"
    assert sealed
    print(f"\nkilled at each of {calls} points")
