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
from convsvc.errors import TargetExists
from convsvc.execute.staging import renaming, sites
from convsvc.execute.staging.manifest import Manifest
from convsvc.execute.staging.publishing import is_published, tidy_published
from convsvc.execute.staging.sites import staging_path
from convsvc.execute.staging.workspace import Staging
from convsvc.formats.zip.crc import crc32
from tests.execute.handmade import Handmade, make_handmade, reverse_of
from tests.fault.checkpoints import digests_of, left_beside
from tests.fault.dying import VERIFY, go

SCRIPT = str(Path(__file__).with_name("dying.py"))
OLD = {"old": b"abc", "rank/old": b"abc", "latest.txt": b"abc"}

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


def prepare(folder: Path, way: str, overwrites: bool) -> Handmade:
    folder.mkdir()
    made = make_handmade(folder)
    (folder / "plan.pickle").write_bytes(pickle.dumps(made.plan))
    if overwrites:
        for name, data in OLD.items():
            (made.target / name).parent.mkdir(parents=True, exist_ok=True)
            (made.target / name).write_bytes(data)
        manifest = Manifest("old", "0", "old", {name: (3, crc32(data)) for name, data in OLD.items()})
        (made.target / ".convsvc-made.json").write_text(manifest.dump())
    elif way == "inside":
        made.target.mkdir(parents=True)
    return made


def seen(made: Handmade) -> dict[str, str]:
    """The digests of what is in the target, but for what is hidden there while it is made."""
    if not made.target.exists():
        return {}
    return {path: digest for path, digest in digests_of(made.target).items() if not path.startswith(".convsvc-")}


def hidden(made: Handmade) -> list[str]:
    inside = [path.name for path in made.target.iterdir() if path.name.startswith(".convsvc-") and path.name != ".convsvc-made.json"]
    return left_beside(made.target.parent) + inside


def staged_files(made: Handmade) -> list[tuple[int, int]]:
    """What tells whether the files that hold tensors were touched: wherever they lie now, their inodes and the times of their changes."""
    paths = [place / file.path for place in (staging_path(made.target), made.target) for file in made.plan.target_files]
    return sorted((path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.exists())


def recover(made: Handmade, on_exists: str, way: str, old: dict[str, str]) -> None:
    """What the executor does about a job whose executor died: see `EngineRunner`."""
    if is_published(made.target) and seen(made) not in ({}, old):
        tidy_published(made.target)
        return
    with closing(make_engine("inline")) as engine:
        run_plan(made.plan, engine, verify=VERIFY[way], reverse_tasks=reverse_of(made.plan), on_exists=on_exists)


WAYS = [("exchange", False), ("exchange", True), ("renames", True), ("inside", False), ("inside", True)]


@pytest.mark.parametrize(("way", "overwrites"), WAYS)
def test_killed_before_any_change_to_storage_a_run_is_finished_by_the_next_one(
    way: str, overwrites: bool, die: Die, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of writing is the same in all: beyond the first two only publishing is died in."""
    monkeypatch.setattr(renaming, "_renameat2", renaming._renameat2)
    monkeypatch.setattr(sites, "must_stay", sites.must_stay)
    go(way)
    begin, go_on = ("overwrite", "resume-overwrite") if overwrites else ("error", "resume")
    whole = prepare(tmp_path / "whole", way, overwrites)
    old = seen(whole)
    lived = die(tmp_path / "whole", begin, way)
    right = digests_of(whole.target)
    calls, first = lived["calls"], 0 if way == "exchange" else lived["publishing"]
    assert calls > 50
    sealed = False
    for point in range(first, calls):
        folder = tmp_path / str(point)
        made = prepare(folder, way, overwrites)
        assert die(folder, begin, way, point)["status"] == signal.SIGKILL
        if way == "inside":
            # In place there is a moment in which neither is seen; never a mixture, nor half of one that looks complete.
            assert seen(made) in (right, old) or not (made.target / "latest.txt").exists(), f"half a target after call {point}"
        elif made.target.exists():
            assert seen(made) in ([right, old] if overwrites else [right]), f"half a target is to be seen after call {point}"
        files = staged_files(made)
        sealed = sealed or (staging_path(made.target) / ".convsvc" / "sealed").exists()
        recover(made, go_on, way, old)
        if sealed:
            assert staged_files(made) == files, f"a sealed file was made or written again after call {point}"
        assert digests_of(made.target) == right, f"other bytes after call {point}"
        assert hidden(made) == [], f"something is left after call {point}"
        report = json.loads(made.target.with_name("target.conversion-report.json").read_text())
        assert report["run"] == json.loads((made.target / ".convsvc-made.json").read_text())["run"]
    print(f"\nkilled at each of {calls - first} points")


@pytest.mark.parametrize("way", ["renames", "inside"])
def test_killed_while_it_is_published_a_run_leaves_the_old_target_to_whoever_comes_next(
    way: str, die: Die, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to a run that wants nothing of it: the old target is back, whole, or the new one is there."""
    monkeypatch.setattr(renaming, "_renameat2", renaming._renameat2)
    monkeypatch.setattr(sites, "must_stay", sites.must_stay)
    go(way)
    whole = prepare(tmp_path / "whole", way, True)
    old = seen(whole)
    lived = die(tmp_path / "whole", "overwrite", way)
    right, outcomes = digests_of(whole.target), list[bool]()
    for point in range(lived["publishing"], lived["calls"]):
        made = prepare(tmp_path / str(point), way, True)
        assert die(tmp_path / str(point), "overwrite", way, point)["status"] == signal.SIGKILL
        with pytest.raises(TargetExists):
            Staging.open(made.plan, "error")
        assert seen(made) in (right, old), f"neither the old nor the new target after call {point}"
        outcomes.append(seen(made) == right)
    assert outcomes == sorted(outcomes), "once the new target is there it stays"
    assert len(set(outcomes)) == 2
