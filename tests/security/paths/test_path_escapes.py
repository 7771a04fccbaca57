"""Tricks by which a job would read or write outside its tenant's directories: each is refused, and nothing outside is touched.

Every trick is tried with the kernel's own check (openat2) and with the one that stands in for it on older kernels. What must go on to
work lies at the end of the file: a suite that refuses everything would prove nothing.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, FormatError, JobError, PathRefused, SourceError, TargetError, TargetExists
from convsvc.execute.staging.sites import staging_path
from tests.security.paths.world import INDEX, RANK_FILE, SHARDS, TRACKER, World

JobDict = dict[str, Any]


@dataclass(frozen=True)
class Trick:
    """What is set up before the job is run, and which error must come of it."""

    name: str
    play: Callable[[World], JobDict]
    error: type[ConvsvcError]


TRICKS: list[Trick] = []


def trick(name: str, error: type[ConvsvcError] = PathRefused) -> Callable[[Callable[[World], JobDict]], None]:
    return lambda play: TRICKS.append(Trick(name, play, error))


def link(path: Path, to: Path | str) -> Path:
    """A link at `path`, in the place of whatever is there."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}-was"))
    path.unlink(missing_ok=True)
    path.symlink_to(to)
    return path


def name_in_index(w: World, name: str) -> JobDict:
    index = json.loads((w.tenant / "hf" / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = name
    (w.tenant / "hf" / INDEX).write_text(json.dumps(index))
    return w.to_mcore()


# --- how a path is written ---

trick("a source outside")(lambda w: w.to_mcore(w.outside / "hf"))
trick("dots to the outside")(lambda w: w.to_mcore(f"{w.tenant}/../outside/hf"))
trick("dots that come back")(lambda w: w.to_mcore(f"{w.tenant}/hf/../hf"))
trick("dots in the target")(lambda w: w.to_mcore(target=f"{w.tenant}/../outside/new"))
trick("a relative path")(lambda w: w.to_mcore(os.path.relpath(w.outside / "hf")))
trick("a home directory")(lambda w: w.to_mcore("~/hf"))
trick("a name that begins as the root's")(lambda w: w.to_mcore(f"{w.tenant}-evil/hf"))
trick("two slashes in front")(lambda w: w.to_mcore(f"/{w.outside}/hf"))
trick("a zero byte", JobError)(lambda w: w.to_mcore(f"{w.outside}/hf\0{w.tenant}"))
trick("the process's own root")(lambda w: w.to_mcore(f"/proc/self/root{w.outside}/hf"))
trick("the standard input")(lambda w: w.to_mcore("/dev/stdin"))
trick("a target outside")(lambda w: w.to_mcore(target=w.outside / "new"))
trick("a target that is a root: its staging directory would lie outside")(lambda w: w.to_mcore(target=w.shared))
trick("a target that is a root, with a slash and a dot")(lambda w: w.to_mcore(target=f"{w.shared}/."))
trick("a configuration outside")(lambda w: w.to_hf(config_dir=w.outside / "hf"))


@trick("adapters outside")
def _(w: World) -> JobDict:
    job = w.to_hf()
    return job | {"source": job["source"] | {"lora": {"path": str(w.outside / "mcore"), "r": 4, "alpha": 8}}}


# --- links on the way to the source ---

trick("a source that is a link")(lambda w: w.to_mcore(link(w.tenant / "link", w.outside / "hf")))
trick("a relative link")(lambda w: w.to_mcore(link(w.tenant / "link", "../outside/hf")))
trick("a link with a slash and a dot after it")(lambda w: w.to_mcore(f"{link(w.tenant / 'link', w.outside / 'hf')}/."))
trick("a link in the middle")(lambda w: w.to_mcore(link(w.tenant / "link", w.outside) / "hf"))
trick("a link to a link")(lambda w: w.to_mcore(link(w.tenant / "a", link(w.tenant / "b", w.outside / "hf"))))
trick("a link out of one root through the other")(
    lambda w: w.to_mcore(link(w.tenant / "a", link(w.shared / "b", w.outside) / "hf")),
)
trick("a link through /proc/self/root")(lambda w: w.to_mcore(link(w.tenant / "link", f"/proc/self/root{w.outside}/hf")))
trick("a link to what does not exist")(lambda w: w.to_mcore(link(w.tenant / "link", w.outside / "nothing")))
trick("a link through /proc/self/cwd")(lambda w: w.to_mcore(link(w.tenant / "link", "/proc/self/cwd")))


@trick("adapters behind a link")
def _(w: World) -> JobDict:
    job = w.to_hf()
    return job | {"source": job["source"] | {"lora": {"path": str(link(w.tenant / "lora", w.outside / "mcore")), "r": 4, "alpha": 8}}}


# --- what lies in a source ---


def swapped_in_hf(name: str, to: str) -> Callable[[World], JobDict]:
    def play(w: World) -> JobDict:
        link(w.tenant / "hf" / name, w.outside / to)
        return w.to_mcore()

    return play


trick("config.json is a link")(swapped_in_hf("config.json", "hf/config.json"))
trick("config.json is a link to nothing outside")(swapped_in_hf("config.json", "nothing"))
trick("the index is a link")(swapped_in_hf(INDEX, f"hf/{INDEX}"))
trick("a shard is a link")(swapped_in_hf(SHARDS[0], f"hf/{SHARDS[0]}"))
trick("the index names dots", SourceError)(lambda w: name_in_index(w, f"../../outside/hf/{SHARDS[0]}"))
trick("the index names an absolute path", SourceError)(lambda w: name_in_index(w, str(w.outside / "hf" / SHARDS[0])))
trick("the index names the directory", SourceError)(lambda w: name_in_index(w, "."))
trick("the index names a zero byte", SourceError)(lambda w: name_in_index(w, "a\0b"))
trick("the index names two lines", SourceError)(lambda w: name_in_index(w, f"{SHARDS[0]}\n../x"))
trick("the index names half a character", ConvsvcError)(lambda w: name_in_index(w, "\ud800"))
trick("the index names something too long", SourceError)(lambda w: name_in_index(w, "x" * 5000))


@trick("config.json is a link to an open file")
def _(w: World) -> JobDict:
    # The descriptor is leaked on purpose; the pattern is that of a service which has the file of another tenant open.
    kept = os.open(w.outside / "hf" / "config.json", os.O_RDONLY)
    link(w.tenant / "hf" / "config.json", f"/proc/{os.getpid()}/fd/{kept}")
    return w.to_mcore()


@trick("config.json is a FIFO", FormatError)
def _(w: World) -> JobDict:
    (w.tenant / "hf" / "config.json").unlink()
    os.mkfifo(w.tenant / "hf" / "config.json")
    return w.to_mcore()


@trick("config.json is a directory", FormatError)
def _(w: World) -> JobDict:
    (w.tenant / "hf" / "config.json").unlink()
    (w.tenant / "hf" / "config.json").mkdir()
    return w.to_mcore()


@trick("a shard is a FIFO", FormatError)
def _(w: World) -> JobDict:
    (w.tenant / "hf" / SHARDS[0]).unlink()
    os.mkfifo(w.tenant / "hf" / SHARDS[0])
    return w.to_mcore()


@trick("a shard is a socket", FormatError)
def _(w: World) -> JobDict:
    (w.tenant / "hf" / SHARDS[0]).unlink()
    os.mknod(w.tenant / "hf" / SHARDS[0], stat.S_IFSOCK | 0o600)
    return w.to_mcore()


@trick("a shard is a link to a device")
def _(w: World) -> JobDict:
    link(w.tenant / "hf" / SHARDS[0], "/dev/zero")
    return w.to_mcore()


@trick("the tracker says dots", SourceError)
def _(w: World) -> JobDict:
    (w.tenant / "mcore" / TRACKER).write_text("../../outside/mcore/iter_0000001")
    return w.to_hf()


@trick("the tracker is a FIFO", SourceError)
def _(w: World) -> JobDict:
    (w.tenant / "mcore" / TRACKER).unlink()
    os.mkfifo(w.tenant / "mcore" / TRACKER)
    return w.to_hf()


def swapped_in_mcore(name: str, to: str) -> Callable[[World], JobDict]:
    def play(w: World) -> JobDict:
        link(w.tenant / "mcore" / name, w.outside / to)
        return w.to_hf()

    return play


trick("the tracker is a link")(swapped_in_mcore(TRACKER, "secret"))
trick("the iteration is a link")(swapped_in_mcore("iter_0000001", "mcore/iter_0000001"))
trick("a rank directory is a link")(swapped_in_mcore("iter_0000001/mp_rank_00", "mcore/iter_0000001/mp_rank_00"))
trick("a rank file is a link")(swapped_in_mcore(RANK_FILE, f"mcore/{RANK_FILE}"))
trick("the carried file is a link")(swapped_in_mcore("iter_0000001/carried.safetensors", f"hf/{SHARDS[0]}"))


def config_with(name: str, to: Path | str) -> Callable[[World], JobDict]:
    def play(w: World) -> JobDict:
        link(w.tenant / "hf" / name, w.outside / to)
        return w.to_hf()

    return play


trick("a configuration that is a link")(lambda w: w.to_hf(config_dir=link(w.tenant / "link", w.outside / "hf")))
trick("the tokenizer to copy is a link")(config_with("tokenizer.json", "secret"))
trick("code to copy is a link to a file of the system")(config_with("modeling.py", "/etc/passwd"))
trick("the configuration to copy is a link")(config_with("config.json", "hf/config.json"))


# --- on the way to the target ---

trick("a target that is a link")(lambda w: w.to_mcore(target=link(w.tenant / "out", w.outside / "folder")))
trick("a target that is a link, to be overwritten")(
    lambda w: w.to_mcore(target=link(w.tenant / "out", w.outside / "folder"), on_exists="overwrite"),
)
trick("a target that is a link to what is not there")(lambda w: w.to_mcore(target=link(w.tenant / "out", w.outside / "new")))
trick("a target's parent is a link")(lambda w: w.to_mcore(target=link(w.tenant / "link", w.outside) / "new"))
trick("a target's parent is a link to what is not there")(lambda w: w.to_mcore(target=link(w.tenant / "link", w.outside / "a") / "b" / "c"))
trick("a target that is a file", TargetExists)(lambda w: w.to_mcore(target=w.tenant / "hf" / "config.json", on_exists="overwrite"))
trick("a target in a file", TargetError)(lambda w: w.to_mcore(target=w.tenant / "hf" / "config.json" / "out"))


@trick("a target that is a FIFO", TargetError)
def _(w: World) -> JobDict:
    os.mkfifo(w.tenant / "out")
    return w.to_mcore(on_exists="overwrite")


def beside(w: World, suffix: str) -> Path:
    return staging_path(w.tenant / "out").with_name(f".out.convsvc{suffix}")


def link_beside(suffix: str, to: str, on_exists: str) -> Callable[[World], JobDict]:
    def play(w: World) -> JobDict:
        link(beside(w, suffix), w.outside / to)
        return w.to_mcore(on_exists=on_exists)

    return play


trick("the staging directory is a link", TargetError)(link_beside("", "folder", "error"))
trick("the staging directory is a link, resumed", TargetError)(link_beside("", "folder", "resume"))
trick("the staging directory is a link to nothing", TargetError)(link_beside("", "new", "overwrite"))
trick("the lock is a link to a file", TargetError)(link_beside("-lock", "secret", "error"))
trick("the lock is a link to nothing", TargetError)(link_beside("-lock", "new", "error"))
trick("the old target's place is a link", TargetError)(link_beside("-old", "folder", "overwrite"))
trick("the private files' place is a link", TargetError)(link_beside("-ended", "folder", "error"))


@trick("the lock is another name of a file outside", TargetError)
def _(w: World) -> JobDict:
    os.link(w.outside / "secret", beside(w, "-lock"))
    return w.to_mcore()


@trick("the lock is a FIFO", TargetError)
def _(w: World) -> JobDict:
    os.mkfifo(beside(w, "-lock"))
    return w.to_mcore()


@trick("the lock is a directory", TargetError)
def _(w: World) -> JobDict:
    beside(w, "-lock").mkdir()
    return w.to_mcore()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("each", TRICKS, ids=lambda each: each.name)
def test_a_trick_is_refused_and_nothing_outside_is_read_or_written(each: Trick, world: World, mechanism: str) -> None:
    job = each.play(world)
    before = world.seen_outside()
    with pytest.raises(each.error) as refused:
        convert(job, engine="inline", roots=world.roots)
    assert world.seen_outside() == before
    assert world.marked() == []
    assert not {"marked-as-outside", "Traceback"} & set(str(refused.value).split())


def test_there_are_enough_tricks_and_each_has_a_name_of_its_own() -> None:
    assert len({each.name for each in TRICKS}) == len(TRICKS) >= 25


# --- what must go on to work ---


def converted(world: World, job: JobDict) -> None:
    """The job runs, and what it writes is not from outside."""
    before = world.seen_outside()
    convert(job, engine="inline", roots=world.roots)
    assert world.seen_outside() == before
    assert world.marked() == []
    assert any(Path(job["target"]["path"]).iterdir())


def test_without_tricks_both_directions_work(world: World, mechanism: str) -> None:
    converted(world, world.to_mcore())
    converted(world, world.to_hf(target=world.tenant / "back"))
    assert (world.tenant / "back" / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("absolute", [False, True], ids=["relative links", "absolute links"])
def test_a_hub_cache_whose_files_are_links_to_blobs_is_read(world: World, mechanism: str, absolute: bool) -> None:
    snapshot, blobs = world.tenant / "hub" / "snapshots" / "abc", world.tenant / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted((world.tenant / "hf").iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number) if absolute else f"../../blobs/{number}")
    converted(world, world.to_mcore(snapshot))


def test_a_link_from_one_root_into_the_other_is_followed(world: World, mechanism: str) -> None:
    (world.tenant / "hf").rename(world.shared / "hf")
    (world.tenant / "hf").symlink_to(world.shared / "hf")
    converted(world, world.to_mcore())
    link(world.tenant / "hf", "../shared/hf")
    converted(world, world.to_mcore(target=world.tenant / "out2"))


def test_a_root_may_itself_be_reached_through_a_link(world: World, mechanism: str) -> None:
    (world.base / "alias").symlink_to(world.tenant)
    roots = type(world.roots)((str(world.base / "alias"),))
    convert(world.to_mcore(world.base / "alias" / "hf", world.base / "alias" / "out"), engine="inline", roots=roots)
    convert(world.to_mcore(target=world.tenant / "out2"), engine="inline", roots=roots)


def test_a_target_may_be_a_link_to_a_directory_in_a_root(world: World, mechanism: str) -> None:
    (world.shared / "real").mkdir()
    link(world.tenant / "out", world.shared / "real")
    converted(world, world.to_mcore())
    assert sorted(os.listdir(world.shared)) == ["real", "real.conversion-report.html", "real.conversion-report.json"]


def test_directories_above_a_target_are_made(world: World, mechanism: str) -> None:
    converted(world, world.to_mcore(target=world.tenant / "new" / "newer" / "out"))


def test_links_in_the_old_target_are_in_the_way_and_what_they_lead_to_is_let_be(world: World, mechanism: str) -> None:
    """Also where a link bears the name of a file that was made, and where it appears while the target is converted anew."""
    converted(world, world.to_mcore())
    (world.tenant / "out" / "link").symlink_to(world.outside / "folder")
    (world.tenant / "out" / TRACKER).unlink()
    (world.tenant / "out" / TRACKER).symlink_to(world.outside / "secret")
    before = world.seen_outside()
    with pytest.raises(TargetExists, match="link") as refused:
        convert(world.to_mcore(on_exists="overwrite"), engine="inline", roots=world.roots)
    assert len(refused.value.details["in_the_way"]) == 2
    assert world.seen_outside() == before


def test_a_link_that_no_job_has_to_do_with_is_let_be(world: World, mechanism: str) -> None:
    (world.tenant / "hf" / "notes.txt").symlink_to(world.outside / "secret")
    converted(world, world.to_mcore())
    converted(world, world.to_hf(target=world.tenant / "back"))


def test_without_roots_every_path_is_allowed(world: World, mechanism: str) -> None:
    convert(world.to_mcore(world.outside / "hf", world.tenant / "out"), engine="inline")
    assert world.marked() != [], "the marks are seen where there is something to see"
