"""Swaps: a directory or file becomes a link after it was looked at. What was planned, or opened, is used; or the job is refused."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import cycle
from pathlib import Path

import pytest

from convsvc.conversion import run
from convsvc.engine import make_engine
from convsvc.engine.listener import Listener
from convsvc.errors import ConvsvcError, PathRefused, SourceChanged, SourceError, StorageError, TargetError
from convsvc.execute.staging.sites import staging_path
from convsvc.execute.staging.task_pack import read_task, write_pack
from convsvc.execute.staging.workspace import Staging
from convsvc.execute.worker import run_task
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from convsvc.roots import RootedPath, Roots
from tests.security.paths.world import SHARDS, World

FLIPS = 400


class AtPhase(Listener):
    """Does something when the run comes to a phase."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self.name, self.act = name, act

    def phase(self, name: str, total: int) -> None:
        if name == self.name:
            self.act()


def run_here(plan: Plan, listener: Listener | None = None) -> None:
    with closing(make_engine("inline")) as engine:
        run(plan, engine, listener=listener)


def refused(world: World, plan: Plan, *errors: type[ConvsvcError], phase: str = "", act: Callable[[], None] = lambda: None) -> None:
    """The run ends with one of the errors; nothing outside was read or written."""
    before = world.seen_outside()
    with pytest.raises(errors):
        run_here(plan, AtPhase(phase, act))
    assert world.seen_outside() == before
    assert world.marked() == []


def as_old(path: Path, like: os.stat_result) -> None:
    """Makes a file outside as old as the one that was planned: its size is the same anyhow, so that only the roots tell them apart."""
    os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))


def swap(path: Path, to: Path) -> None:
    path.rename(path.with_name(f"{path.name}-was"))
    path.symlink_to(to)


# --- between planning and running ---


def test_a_shard_swapped_after_planning_is_not_read(world: World, mechanism: str) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    shard, other = world.tenant / "hf" / SHARDS[0], world.outside / "hf" / SHARDS[0]
    as_old(other, shard.stat())
    assert shard.stat().st_size == other.stat().st_size
    swap(shard, other)
    refused(world, plan, PathRefused)


def test_a_directory_swapped_after_planning_is_not_read(world: World, mechanism: str) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    for name in SHARDS:
        as_old(world.outside / "hf" / name, (world.tenant / "hf" / name).stat())
    swap(world.tenant / "hf", world.outside / "hf")
    refused(world, plan, PathRefused)


def test_the_same_swap_is_read_where_there_are_no_roots(world: World) -> None:
    """So that the tests above are known to test something."""
    plan = make_plan(world.to_mcore())
    for name in SHARDS:
        as_old(world.outside / "hf" / name, (world.tenant / "hf" / name).stat())
    swap(world.tenant / "hf", world.outside / "hf")
    run_here(plan)
    assert world.marked() != []


def test_a_shard_that_became_a_fifo_does_not_hang_a_worker(world: World, mechanism: str) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    (world.tenant / "hf" / SHARDS[0]).unlink()
    os.mkfifo(world.tenant / "hf" / SHARDS[0])
    refused(world, plan, SourceChanged)


def test_a_file_to_copy_swapped_after_planning_is_not_copied(world: World, mechanism: str) -> None:
    plan = make_plan(world.to_hf(), world.roots)
    swap(world.tenant / "hf" / "tokenizer.json", world.outside / "secret")
    refused(world, plan, PathRefused)


def test_a_file_to_copy_that_became_a_fifo_does_not_hang(world: World, mechanism: str) -> None:
    plan = make_plan(world.to_hf(), world.roots)
    (world.tenant / "hf" / "tokenizer.json").unlink()
    os.mkfifo(world.tenant / "hf" / "tokenizer.json")
    refused(world, plan, SourceChanged)


def test_a_targets_parent_swapped_after_planning_gets_nothing(world: World, mechanism: str) -> None:
    (world.tenant / "folder").mkdir()
    plan = make_plan(world.to_mcore(target=world.tenant / "folder" / "out"), world.roots)
    swap(world.tenant / "folder", world.outside / "folder")
    refused(world, plan, PathRefused)


def test_a_source_that_is_swapped_for_a_link_within_the_roots_is_still_read(world: World, mechanism: str) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    (world.tenant / "hf").rename(world.shared / "hf")
    (world.tenant / "hf").symlink_to(world.shared / "hf")
    run_here(plan)
    assert (world.tenant / "out").is_dir()


# --- while it runs ---


@pytest.mark.parametrize("phase", ["write", "seal", "verify", "reopen", "publish"])
def test_a_targets_parent_swapped_in_mid_run_gets_nothing(world: World, phase: str) -> None:
    """What is done goes on in the directory that was opened; workers, which are told a path, refuse it."""
    folder = world.tenant / "folder"
    folder.mkdir()
    plan = make_plan(world.to_mcore(target=folder / "out"), world.roots)
    before = world.seen_outside()
    with suppress(ConvsvcError):
        run_here(plan, AtPhase(phase, lambda: swap(folder, world.outside / "folder")))
    assert world.seen_outside() == before


@pytest.mark.parametrize("phase", ["write", "seal", "verify", "reopen", "publish"])
def test_a_staging_directory_swapped_for_a_link_is_noticed(world: World, phase: str) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    staging = staging_path(world.tenant / "out")
    refused(world, plan, TargetError, phase=phase, act=lambda: swap(staging, world.outside / "folder"))
    assert not os.path.lexists(world.tenant / "out")


def test_a_staging_directory_swapped_for_another_one_is_not_published(world: World) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    staging = staging_path(world.tenant / "out")

    def replace() -> None:
        staging.rename(staging.with_name("kept"))
        staging.mkdir()

    refused(world, plan, TargetError, phase="publish", act=replace)
    assert not (world.tenant / "out").exists()


def test_a_target_that_becomes_a_link_before_it_is_published_is_not_followed(world: World) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    target = world.tenant / "out"
    refused(world, plan, TargetError, phase="publish", act=lambda: target.symlink_to(world.outside / "folder"))
    assert target.is_symlink()


def test_a_forged_task_reads_nothing_outside_and_writes_nowhere_else(world: World, mechanism: str) -> None:
    """Whoever can replace the staging directory can write tasks into it. The roots come with the call."""
    plan = make_plan(world.to_mcore(), world.roots)
    with Staging.open(plan, "error") as staging:
        (number, *_) = staging.pending("write")
        directory = os.open(staging.path, os.O_RDONLY | os.O_DIRECTORY)
        honest = read_task(directory, "write", number).decode()

        def forge(text: str) -> None:
            write_pack(directory, "write", plan.fingerprint, [(number, text.encode())], lambda: None)

        payload = {"staging": str(staging.path), "task": number, "mode": "write", "roots": world.roots.as_json()}
        before = world.seen_outside()
        forged = json.loads(honest)
        for file in forged["source"]["files"]:
            file[0] = file[0].replace(str(world.tenant), str(world.outside))
            file[3] = 0
        forge(json.dumps(forged))
        with pytest.raises(PathRefused):
            run_task(payload)
        for place in (str(world.outside / "secret"), "../../outside/secret"):
            forged = json.loads(honest)
            for file in forged["target"]["files"]:
                file[0] = place
            forge(json.dumps(forged))
            with pytest.raises((PathRefused, StorageError)):
                run_task(payload)
        forge(honest)
        run_task(payload)
        os.close(directory)
    assert world.seen_outside() == before


@pytest.mark.parametrize("name", ["marks", "tasks", "", "fence", "iter_0000001"])
def test_links_within_a_staging_directory_lead_nowhere(world: World, mechanism: str, name: str) -> None:
    """Where a mount maps all users to one, a tenant may reach even into it: neither its driver nor a worker follows what he puts there."""
    plan = make_plan(world.to_mcore(), world.roots)
    with Staging.open(plan, "error") as staging:
        shutil.copytree(staging.path / ".convsvc" / "tasks", world.outside / "folder", dirs_exist_ok=True)
        before = world.seen_outside()
        place = staging.path / name if name.startswith("iter") else staging.path / ".convsvc" / name
        swap(place, world.outside / ("secret" if name == "fence" else "folder"))
        payload = {"staging": str(staging.path), "mode": "write", "roots": world.roots.as_json(), "fence": staging.fence}
        for task in staging.task_names("write"):
            with pytest.raises(ConvsvcError):
                run_task({**payload, "task": task})
    with suppress(ConvsvcError), closing(make_engine("inline")) as engine:
        run(plan, engine, on_exists="resume")  # or, where the fingerprint is gone with what was swapped, starts over
    assert world.seen_outside() == before
    assert world.marked() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_worker_refuses_a_staging_directory_that_has_become_somebody_elses(world: World) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    with Staging.open(plan, "error") as staging:
        payload = {"staging": str(staging.path), "task": 0, "mode": "write", "owner": staging.owner}
        kept = staging.path.with_name("kept")
        staging.path.rename(kept)
        shutil.copytree(kept, staging.path)
        os.chown(staging.path, 4711, -1)
        with pytest.raises(TargetError, match="is user 4711's"):
            run_task(payload)


# --- in a tight loop ---


@contextmanager
def flipping(path: Path, *places: Path) -> Iterator[Callable[[], int]]:
    """A link at `path` that leads to the places in turn, as fast as a thread can change it; says how often it has."""
    count, stop = [0], threading.Event()

    def flip() -> None:
        for place in cycle(places):
            temporary = path.with_name(f"{path.name}.tmp")
            temporary.symlink_to(place)
            os.replace(temporary, path)
            count[0] += 1
            if stop.is_set():
                return

    path.symlink_to(places[0])
    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield lambda: count[0]
    finally:
        stop.set()
        thread.join()


def opened(path: RootedPath) -> str:
    """What the file at the path says; empty if it is refused."""
    try:
        descriptor = path.open(os.O_RDONLY)
    except PathRefused:
        return ""
    with open(descriptor) as file:
        return file.read()


def outcomes(world: World, roots: Roots) -> set[str]:
    """What is read through a link that leads in and out in turn."""
    for folder in ("a", "b"):
        (world.tenant / folder).mkdir(exist_ok=True)
        (world.tenant / folder / "f").write_text("inside")
    (world.outside / "f").write_text("outside")
    with flipping(world.tenant / "flip", Path("a"), world.outside, world.tenant / "b", Path("../outside")) as flipped:
        read = set()
        while flipped() < FLIPS:
            read.add(opened(RootedPath(str(world.tenant / "flip" / "f"), roots)))
    return read


def test_what_is_opened_while_links_change_is_never_outside(world: World, mechanism: str) -> None:
    assert outcomes(world, world.roots) <= {"inside", ""}


def test_the_same_race_is_won_where_there_are_no_roots(world: World) -> None:
    assert "outside" in outcomes(world, Roots())


def test_what_is_planned_while_links_change_is_never_outside(world: World, mechanism: str) -> None:
    for name in ("hf", "other"):
        shutil.copytree(world.tenant / "hf", world.tenant / f"{name}-copy")
    tries = 0
    with flipping(world.tenant / "flip", world.tenant / "hf-copy", world.outside / "hf", world.tenant / "other-copy") as flipped:
        while flipped() < FLIPS:
            tries += 1
            with suppress(PathRefused, SourceError):
                plan = make_plan(world.to_mcore(world.tenant / "flip"), world.roots)
                assert all(file.path.startswith(f"{world.tenant}/") for file in plan.source_files)
    assert tries > 3


def test_a_target_made_while_its_parent_changes_is_never_outside(world: World, mechanism: str) -> None:
    (world.tenant / "a").mkdir()
    before = world.seen_outside()
    with flipping(world.tenant / "flip", Path("a"), world.outside / "folder") as flipped:
        number = 0
        while flipped() < FLIPS:
            number += 1
            with suppress(ConvsvcError):
                plan = make_plan(world.to_mcore(target=world.tenant / "flip" / f"out{number}"), world.roots)
                Staging.open(plan, "error").close()
    assert number > 3
    assert stat.S_ISDIR(os.lstat(world.outside / "folder").st_mode)
    assert world.seen_outside() == before
