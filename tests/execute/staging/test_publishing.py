"""Replacing a target: what is in the way, what goes, what stays, and that it is all or nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convsvc.engine import make_engine
from convsvc.engine.driver import RunResult, run_plan
from convsvc.errors import Canceled, TargetError, TargetExists
from convsvc.execute.staging import publishing, renaming, sites
from convsvc.execute.staging.renaming import exchange, rename_new
from convsvc.execute.staging.sites import staging_path
from convsvc.execute.staging.workspace import Staging
from tests.execute.handmade import Handmade, make_handmade
from tests.execute.staging.test_staging import write_all
from tests.fault.checkpoints import digests_of, left_beside

MANIFEST, REPORT = ".convsvc-made.json", "conversion-report.json"


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    return make_handmade(tmp_path)


def convert(made: Handmade, on_exists: str = "error") -> RunResult:
    with closing(make_engine("inline")) as engine:
        return run_plan(made.plan, engine, on_exists=on_exists)


def state(folder: Path) -> dict[str, Any]:
    """Every file with its content, every other entry with what it is."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else path.lstat().st_mode
        for path in sorted(folder.rglob("*"))
    }


# --- what is in the way ---


def put(path: Path, text: str = "mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


WAYS: list[tuple[str, Callable[[Path], object], str]] = [
    ("training's own iteration", lambda t: put(t / "iter_0005000/mp_rank_00/model_optim_rng.pt"), "iter_0005000/ (1 file)"),
    ("a run's logs", lambda t: put(t / "wandb/run-1/out.log"), "wandb/ (1 file)"),
    ("an empty directory", lambda t: (t / "tensorboard").mkdir(), "tensorboard/ (0 files)"),
    ("a file among ours", lambda t: put(t / "rank/notes.txt"), "rank/notes.txt"),
    ("a file of ours that was made longer", lambda t: put(t / "config.json", "{}  "), "config.json: has 4 bytes, 2 were written"),
    ("a tracker that training has moved on", lambda t: put(t / "latest.txt", "0005000"), "latest.txt: its content was changed"),
    ("a link", lambda t: (t / "link").symlink_to("/etc"), "link (a link or a device)"),
    ("a link in place of a file", lambda t: ((t / "latest.txt").unlink(), (t / "latest.txt").symlink_to("/etc/hosts")), "latest.txt ("),
]  # fmt: skip


@pytest.mark.parametrize(("act", "says"), [way[1:] for way in WAYS], ids=[way[0] for way in WAYS])
def test_what_no_conversion_has_made_is_in_the_way_and_is_listed(made: Handmade, act: Callable[[Path], object], says: str) -> None:
    convert(made)
    act(made.target)
    before = state(made.target)
    with pytest.raises(TargetExists, match="not overwritten") as refused:
        convert(made, "overwrite")
    assert says in str(refused.value)
    assert state(made.target) == before
    assert left_beside(made.target.parent) == []


def test_overwriting_replaces_what_another_plan_has_made(made: Handmade) -> None:
    """Files that this plan does not write go too: the manifest lists them."""
    tasks, files = made.plan.tasks, made.plan.side_files
    with closing(make_engine("inline")) as engine:
        other = replace(made.plan, side_files=(*files, replace(files[0], path="more/tokenizer.json")), fingerprint="0" * 64, tasks=tasks)
        run_plan(other, engine)
    assert (made.target / "more/tokenizer.json").exists()
    convert(made, "overwrite")
    made.check_target()
    assert left_beside(made.target.parent) == []


def test_a_target_without_a_manifest_is_replaced_only_where_every_file_is_one_that_the_plan_writes(made: Handmade) -> None:
    convert(made)
    (made.target / MANIFEST).unlink()
    put(made.target / "latest.txt", "an older version's")
    convert(made, "overwrite")
    made.check_target()
    (made.target / MANIFEST).unlink()
    put(made.target / "tokenizer.json")
    with pytest.raises(TargetExists, match="no list of what was made") as refused:
        convert(made, "overwrite")
    assert refused.value.details["in_the_way"] == ["tokenizer.json"]
    assert (made.target / "tokenizer.json").read_text() == "mine"


def test_a_manifest_that_somebody_has_changed_is_none(made: Handmade) -> None:
    """Else whoever edits it decides what is removed."""
    convert(made)
    text = (made.target / MANIFEST).read_text()
    put(made.target / "results.csv")
    (made.target / MANIFEST).write_text(text.replace('"files":{', '"files":{"results.csv":[4,null],'))
    with pytest.raises(TargetExists, match=r"results\.csv"):
        convert(made, "overwrite")


def test_what_appears_in_the_old_target_while_it_is_replaced_is_kept_and_said(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(made)
    check = publishing.find_replaced

    def check_and_write(site: sites.Site, plan: Any, *, overwrites: bool) -> tuple[str, ...]:
        found = check(site, plan, overwrites=overwrites)
        put(made.target / "iter_0000007/model.pt")
        return found

    monkeypatch.setattr("convsvc.execute.staging.workspace.find_replaced", check_and_write)
    with pytest.raises(TargetExists):  # seen when it is published
        convert(made, "overwrite")
    shutil.rmtree(made.target / "iter_0000007")
    monkeypatch.setattr("convsvc.execute.staging.workspace.find_replaced", check)
    swap = publishing._swap

    def write_and_swap(site: sites.Site, overwrites: bool) -> None:
        put(made.target / "iter_0000007/model.pt")
        swap(site, overwrites)

    monkeypatch.setattr(publishing, "_swap", write_and_swap)
    result = convert(made, "overwrite")
    made.check_target()
    kept = made.target.with_name("target.convsvc-kept-1")
    assert state(kept) == {"iter_0000007": kept.joinpath("iter_0000007").stat().st_mode, "iter_0000007/model.pt": b"mine"}
    assert any(str(kept) in note.text for note in result.notes)


def test_what_appears_at_a_new_targets_name_is_not_replaced(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as staging:
        write_all(staging)
        staging.seal()
        put(made.target / "mine")
        with pytest.raises(TargetExists):
            staging.publish()
    assert state(made.target) == {"mine": b"mine"}
    shutil.rmtree(made.target)
    convert(made, "resume")
    made.check_target()


# --- all or nothing ---


@pytest.fixture(params=["exchange", "renames", "inside"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "renames":
        monkeypatch.setattr(renaming, "_renameat2", lambda *_: errno.EINVAL)
    if request.param == "inside":
        monkeypatch.setattr(sites, "must_stay", lambda *_: True)
    return str(request.param)


RENAMES = (
    "convsvc.execute.staging.publishing.os.rename",
    "convsvc.execute.staging.publishing.exchange",
    "convsvc.execute.staging.publishing.rename_new",
)


@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "just after"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.EIO, "broken", "disk")], ids=["Ctrl-C", "a failing disk"])
def test_whatever_rename_is_stopped_the_old_target_or_the_new_one_is_there(
    made: Handmade, way: str, stop: BaseException, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename of publishing in turn is the one at which the signal comes, or the disk fails."""
    convert(made)
    put(made.target / "latest.txt", "release")
    manifest, old, turn, outcomes = (made.target / MANIFEST).read_text(), digests_of(made.target), 0, list[bool]()
    while True:
        with monkeypatch.context() as patched:
            stopped = _stop_at(patched, turn, stop, after)
            with suppress(Canceled, TargetError):
                convert(made, "overwrite")
        if not stopped:
            break
        assert digests_of(made.target).items() >= old.items(), f"neither the old target nor the new one after rename {turn}"
        outcomes.append((made.target / MANIFEST).read_text() != manifest)
        if isinstance(stop, KeyboardInterrupt):
            assert not staging_path(made.target).exists(), "what is canceled leaves nothing"
        convert(made, "resume-overwrite")
        made.check_target()
        assert left_beside(made.target.parent) == []
        manifest, turn = (made.target / MANIFEST).read_text(), turn + 1
    assert outcomes[0] is False
    assert turn >= {"exchange": 2, "renames": 3, "inside": 5}[way]


def _stop_at(patched: pytest.MonkeyPatch, turn: int, stop: BaseException, after: bool) -> list[int]:
    """Makes one of the renames of publishing fail. What is answered has something in it once it has."""
    count, stopped = [0], list[int]()

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any) -> Any:
            number, count[0] = count[0], count[0] + 1
            if number != turn or stopped:
                return call(*args)
            if after:
                call(*args)
            stopped.append(number)
            raise stop

        return instead

    publish = publishing.publish

    def publish_failing(*args: Any) -> Any:
        for name in RENAMES:
            module, _, attribute = name.rpartition(".")
            owner = publishing.os if module.endswith(".os") else publishing
            patched.setattr(owner, attribute, failing(getattr(owner, attribute)))
        return publish(*args)

    patched.setattr("convsvc.execute.staging.workspace.publish", publish_failing)
    return stopped


# --- where a target lies ---


def test_two_names_are_exchanged_in_one_step_where_the_file_system_can(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / name / "file", name)
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange names")
    assert (tmp_path / "a/file").read_text() == "b"
    with pytest.raises(TargetExists, match="appeared meanwhile"):
        rename_new(tmp_path / "a/file", tmp_path / "b/file")
    assert (tmp_path / "b/file").read_text() == "a"


def test_a_rename_replaces_nothing_also_where_the_file_system_has_no_word_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renaming, "_renameat2", lambda *_: errno.EINVAL)
    put(tmp_path / "a", "a")
    put(tmp_path / "b", "b")
    with pytest.raises(TargetExists):
        rename_new(tmp_path / "a", tmp_path / "b")
    rename_new(tmp_path / "a", tmp_path / "c")
    assert state(tmp_path) == {"b": b"b", "c": b"a"}


@pytest.fixture
def volume(made: Handmade) -> Iterator[Path]:
    """A small file system mounted at the target."""
    made.target.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", made.target], check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield made.target
    subprocess.run(["umount", made.target], check=True)


def test_a_mounted_volume_is_filled_in_place_and_overwritten_in_place(made: Handmade, volume: Path) -> None:
    (volume / "lost+found").mkdir()
    inode = volume.stat().st_ino
    with Staging.open(made.plan, "error") as staging:
        assert staging.path == volume / ".convsvc-staging"
        assert staging.path.stat().st_dev == volume.stat().st_dev
        staging.discard()
    for on_exists in ("error", "overwrite"):
        convert(made, on_exists)
        (volume / "lost+found").rmdir()
        made.check_target()
        assert left_beside(made.target.parent) == []
        (volume / "lost+found").mkdir()
    assert volume.stat().st_ino == inode
    assert os.path.ismount(volume)
    with pytest.raises(TargetExists):
        convert(made)


def test_a_mounted_volume_that_is_too_small_is_found_before_the_first_byte(made: Handmade, volume: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=1m", volume], check=True)
    with pytest.raises(TargetError, match="free, the target needs"):
        convert(made)
    assert list(volume.iterdir()) == []


def test_a_directory_in_a_place_where_nobody_may_write_is_filled_in_place(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume's mount point mostly lies in a directory of root's. Then the report is in the target only."""
    made.target.mkdir(parents=True)
    access = os.access
    parent = made.target.parent.stat()

    def denied(path: Any, mode: int, **more: bool) -> bool:
        return not os.path.samestat(os.stat(path), parent) and access(path, mode, **more)

    monkeypatch.setattr(os, "access", denied)
    with Staging.open(made.plan, "error") as staging:
        assert staging.path == made.target / ".convsvc-staging"
        staging.discard()
    beside_only = replace(made.plan, job={**made.plan.job, "options": {"report": "beside"}})
    with closing(make_engine("inline")) as engine:
        result = run_plan(beside_only, engine)
    made.check_target()
    assert os.listdir(made.target.parent) == ["target"]
    assert result.report == str(made.target / REPORT)


def test_an_empty_directory_keeps_its_mode(made: Handmade) -> None:
    made.target.mkdir(parents=True)
    made.target.chmod(0o2770)
    convert(made)
    assert made.target.stat().st_mode & 0o7777 == 0o2770


# --- what is read ---


@pytest.mark.parametrize("place", ["config_dir", "config_dir in it", "lora.path", "source.path", "a link in it"])
def test_nothing_that_the_job_reads_may_lie_in_the_target(made: Handmade, tmp_path: Path, place: str) -> None:
    convert(made)
    where = {"config_dir in it": made.target / "deep/er", "a link in it": made.target / "link"}.get(place, made.target)
    if place == "a link in it":
        where.symlink_to(tmp_path)
    else:
        where.mkdir(parents=True, exist_ok=True)
    job: dict[str, Any] = {
        "source": {"path": str(tmp_path), "lora": {"path": str(tmp_path)}},
        "target": {"path": str(made.target), "config_dir": str(tmp_path)},
    }
    alias = tmp_path / "alias"
    alias.symlink_to(where)
    side = job["target"] if place.startswith("config_dir") else job["source"]["lora"] if place == "lora.path" else job["source"]
    side["config_dir" if place.startswith("config_dir") else "path"] = str(where if place == "a link in it" else alias)
    before = state(made.target)
    with closing(make_engine("inline")) as engine, pytest.raises(TargetError, match="lies in the target"):
        run_plan(replace(made.plan, job=job), engine, on_exists="overwrite")
    assert state(made.target) == before


def test_a_target_may_lie_in_a_directory_that_is_read(made: Handmade, tmp_path: Path) -> None:
    """A new directory in the source's: nothing of the source is touched."""
    job = {"source": {"path": str(tmp_path)}, "target": {"path": str(made.target)}}
    with closing(make_engine("inline")) as engine:
        run_plan(replace(made.plan, job=job), engine)
    made.check_target()


# --- the report ---


def test_the_report_lies_beside_and_in_the_target_and_is_the_same(made: Handmade) -> None:
    result = convert(made)
    beside = made.target.with_name(f"target.{REPORT}")
    assert result.report == str(beside)
    report = json.loads(beside.read_text())
    assert (made.target / REPORT).read_bytes() == beside.read_bytes()
    assert beside.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert report["run"] == json.loads((made.target / MANIFEST).read_text())["run"]
    assert report["verified"]["mode"] == "digest"
    assert report["verified"]["verify"]["tasks"] == 2


def test_the_reports_digests_are_those_of_the_files(made: Handmade) -> None:
    convert(made)
    report = json.loads((made.target / REPORT).read_text())
    files = {each["path"]: each["crc32"] for each in (*report["target"]["files"], *report["target"]["side_files"])}
    assert files == {name: f"{zlib.crc32((made.target / name).read_bytes()):08x}" for name in files}
    assert set(files) == {"model.safetensors", "rank/model.pt", "config.json", "latest.txt"}
    (flat,) = [each for each in report["target"]["files"] if each["path"] == "model.safetensors"]
    assert flat["tensor_crc32"]["norm"] == f"{zlib.crc32(made.norm.tobytes()):08x}"


def test_a_file_that_bears_the_reports_name_and_is_none_is_not_replaced(made: Handmade) -> None:
    beside = made.target.with_name(f"target.{REPORT}")
    put(beside, '{"mine": 1}')
    with pytest.raises(TargetExists, match="no report of a conversion"):
        convert(made)
    assert beside.read_text() == '{"mine": 1}'


def test_a_report_of_an_earlier_conversion_is_replaced(made: Handmade) -> None:
    convert(made)
    before = made.target.with_name(f"target.{REPORT}").read_text()
    convert(made, "overwrite")
    assert made.target.with_name(f"target.{REPORT}").read_text() != before


def test_the_report_may_lie_beside_only(made: Handmade) -> None:
    plan = replace(made.plan, job={**made.plan.job, "options": {"report": "beside"}})
    with closing(make_engine("inline")) as engine:
        run_plan(plan, engine)
    assert not (made.target / REPORT).exists()
    assert made.target.with_name(f"target.{REPORT}").exists()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
