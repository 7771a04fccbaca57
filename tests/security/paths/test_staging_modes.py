"""Who may see a staging directory, whose it must be, and which modes a published target has."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from convsvc.conversion import convert, run
from convsvc.engine import make_engine
from convsvc.engine.listener import Listener
from convsvc.errors import TargetBusy, TargetError
from convsvc.execute.staging import folders
from convsvc.execute.staging.folders import owner_of_new
from convsvc.execute.staging.sites import staging_path
from convsvc.execute.staging.workspace import Staging
from convsvc.plan.planner import make_plan
from tests.security.paths.world import World

SOMEBODY = 4711
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    old = os.umask(0o022)
    yield lambda mask: [os.umask(mask), None][1]
    os.umask(old)


class LookingAtStaging(Listener):
    def __init__(self, staging: Path) -> None:
        self.staging, self.modes = staging, dict[str, set[int]]()

    def phase(self, name: str, total: int) -> None:
        beside = self.staging.with_name(f"{self.staging.name}-lock")
        self.modes[name] = {mode(self.staging), mode(self.staging / ".convsvc") if name != "publish" else 0o700, mode(beside) | 0o100}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_staging_directory_and_lock_are_private_whatever_the_umask(world: World, umask: Callable[[int], None], mask: int) -> None:
    umask(mask)
    looking = LookingAtStaging(staging_path(world.tenant / "out"))
    convert(world.to_mcore(), engine="inline", listener=looking, roots=world.roots)
    assert set(looking.modes) == {"write", "seal", "verify", "reopen", "publish"}
    assert all(modes == {0o700} for modes in looking.modes.values()), looking.modes


def test_the_staging_directory_is_private_from_its_first_moment(
    world: World, umask: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made with its mode, not made and then changed."""
    umask(0)
    seen = list[int]()
    open_private = folders.open_private

    def look_and_open(path: Path) -> folders.OpenFolder:
        seen.append(mode(path))
        return open_private(path)

    monkeypatch.setattr(folders, "open_private", look_and_open)
    with Staging.open(make_plan(world.to_mcore(), world.roots), "error"):
        assert set(seen) == {0o700}


@pytest.mark.parametrize(("mask", "directories", "files"), [(0o000, 0o755, 0o644), (0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_a_target_has_the_modes_of_new_files(world: World, umask: Callable[[int], None], mask: int, directories: int, files: int) -> None:
    umask(mask)
    convert(world.to_hf(target=world.tenant / "new" / "hf"), engine="inline", roots=world.roots)
    convert(world.to_mcore(target=world.tenant / "new" / "mcore"), engine="inline", roots=world.roots)
    made = [world.tenant / "new", *(world.tenant / "new").rglob("*")]
    assert {mode(path) for path in made if path.is_dir()} == {directories}
    assert {mode(path) for path in made if path.is_file()} == {files}


def test_what_is_copied_does_not_bring_its_mode_along(world: World) -> None:
    (world.tenant / "hf" / "modeling.py").write_text("pass")
    (world.tenant / "hf" / "modeling.py").chmod(0o6777)
    convert(world.to_hf(), engine="inline", roots=world.roots)
    assert mode(world.tenant / "out" / "modeling.py") & 0o7133 == 0


@as_root
@pytest.mark.parametrize("on_exists", ["error", "overwrite", "resume"])
def test_somebody_elses_staging_directory_is_neither_used_nor_removed(world: World, on_exists: str) -> None:
    staging = staging_path(world.tenant / "out")
    with Staging.open(make_plan(world.to_mcore(), world.roots), "error"):
        pass
    os.chown(staging, SOMEBODY, -1)
    with pytest.raises(TargetError, match=f"is user {SOMEBODY}'s"):
        convert(world.to_mcore(on_exists=on_exists), engine="inline", roots=world.roots)
    assert staging.stat().st_uid == SOMEBODY


@as_root
def test_a_staging_directory_that_is_somebody_elses_by_the_time_it_is_opened_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(world.to_mcore(), world.roots)
    make_directory = Path.mkdir

    def make_and_lose(path: Path, *args: int, **kwargs: bool) -> None:
        make_directory(path, *args, **kwargs)
        if path.name == ".out.convsvc":
            os.chown(path, SOMEBODY, -1)

    monkeypatch.setattr(folders.Path, "mkdir", make_and_lose)
    with pytest.raises(TargetError, match=f"is user {SOMEBODY}'s"):
        Staging.open(plan, "error")


@as_root
def test_somebody_elses_lock_is_refused(world: World) -> None:
    lock = world.tenant / ".out.convsvc-lock"
    lock.write_text("{}")
    os.chown(lock, SOMEBODY, -1)
    with pytest.raises(TargetError, match="not a lock of this service"):
        convert(world.to_mcore(), engine="inline", roots=world.roots)
    assert lock.read_text() == "{}"


@as_root
def test_what_a_mount_makes_somebody_elses_is_ours_if_what_we_make_there_is_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """root_squash, CIFS: all that we make belongs to another user, also the lock and the staging directory that a crash has left."""
    with Staging.open(make_plan(world.to_mcore(), world.roots), "error"):
        pass
    for path in (staging_path(world.tenant / "out"), world.tenant / ".out.convsvc-lock"):
        path.touch()
        os.chown(path, SOMEBODY, -1)
    assert owner_of_new(world.tenant) == os.geteuid()
    for module in ("staging.folders", "staging.locks"):
        monkeypatch.setattr(f"convsvc.execute.{module}.owner_of_new", lambda directory: SOMEBODY)
    convert(world.to_mcore(on_exists="resume"), engine="inline", roots=world.roots)
    assert (world.tenant / "out").is_dir()


def test_a_lock_that_is_held_is_still_a_lock(world: World) -> None:
    with Staging.open(make_plan(world.to_mcore(), world.roots), "error"), pytest.raises(TargetBusy):
        convert(world.to_mcore(), engine="inline", roots=world.roots)


def test_removing_does_not_follow_links(world: World) -> None:
    assert shutil.rmtree.avoids_symlink_attacks
    before = world.seen_outside()
    old = world.tenant / "old"
    old.mkdir()
    (old / "link").symlink_to(world.outside)
    folders.remove(old)
    assert not old.exists()
    (world.tenant / "link").symlink_to(world.outside / "folder")
    with pytest.raises(TargetError, match="is a link"):
        folders.remove(world.tenant / "link")
    assert world.seen_outside() == before


def test_messages_name_directories_and_not_descriptors(world: World) -> None:
    (world.tenant / "out").mkdir()
    (world.tenant / "out" / "file").touch()
    with pytest.raises(TargetError) as refused, closing(make_engine("inline")) as engine:
        run(make_plan(world.to_mcore(), world.roots), engine)
    assert str(world.tenant / "out") in str(refused.value)
    assert "/proc/" not in str(refused.value) + str(refused.value.details)
