"""Watches of training runs: which iterations become jobs, when, and that each becomes one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convsvc.client import Client
from convsvc.conversion import run
from convsvc.engine import make_engine
from convsvc.errors import JobError
from convsvc.plan.planner import make_plan
from convsvc.service.access.audit import Audit
from convsvc.service.access.identity import LOOPBACK, Caller
from convsvc.service.access.tenants import Tenants
from convsvc.service.errors import LeaseLost, NoSuchWatch
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.looks import Looks
from convsvc.service.store.models import WatchRow
from convsvc.service.store.retention import Retention, purge
from convsvc.service.store.watches import Watches
from convsvc.service.watching.looker import Looker
from convsvc.service.watching.rules import fill_in, job_for, parse_watch
from convsvc.spec import parse_job
from tests.service.training_run import MegatronRun

WRITER = Caller("ci", "team-a", frozenset({"jobs:read", "jobs:write"}), ("/shared/team-a",))


class Watching:
    """A job store with a watch, an executor that looks when it is told to, and converts when it is told to."""

    def __init__(self, database: Database, out: Path) -> None:
        self.database, self.out = database, out
        self.store, self.watches = Store(database), Watches(database)
        self.looker = Looker(database, "executor-1")
        self.claims = Claims(database, "executor-1", engine="inline")

    def watch(self, asked: dict[str, Any], caller: Caller = LOOPBACK) -> str:
        return self.watches.create(parse_watch(asked), caller=caller)[0].id

    def look(self, times: int = 1) -> None:
        """As if so much time had passed that every watch is due."""
        for _ in range(times):
            with self.database.writing() as session:
                for row in session.query(WatchRow):
                    row.due_at = row.created_at
            while self.looker.look():
                pass

    def jobs(self) -> list[str]:
        """The sources' iterations of all jobs, in the order in which they were submitted."""
        return [str(job.spec["source"].get("iteration") or Path(job.source).name) for job in reversed(self.store.jobs(limit=500).jobs)]

    def convert(self) -> None:
        """Run every job in the queue, as an executor does."""
        engine = make_engine("inline", workers=1, ray_address=None)
        while (claim := self.claims.claim()) is not None:
            self.claims.begin(claim)
            plan = make_plan(claim.job)
            self.claims.planned(claim, plan.model_type, plan.summary(), ())
            self.claims.succeed(claim, run(plan, engine).as_dict())
        engine.close()

    def seen(self, watch: str) -> dict[int, str]:
        return {one.iteration: one.state for one in self.watches.iterations(watch)}


@pytest.fixture
def watching(database: Database, tmp_path: Path) -> Watching:
    return Watching(database, tmp_path / "out")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], MegatronRun]:
    first = MegatronRun(tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("none") / "run")

    def another(directory: Path) -> MegatronRun:
        made: MegatronRun = object.__new__(MegatronRun)
        made.directory, made._saved = directory, first._saved
        directory.mkdir()
        return made

    return another


@pytest.fixture
def training(saved: Callable[[Path], MegatronRun], tmp_path: Path) -> MegatronRun:
    return saved(tmp_path / "run")


def test_an_iteration_becomes_a_job_once_it_is_tracked_and_was_the_same_at_two_looks(watching: Watching, training: MegatronRun) -> None:
    watch = watching.watch(training.watch(watching.out))
    training.save(1)
    training.begin(2)
    watching.look()
    assert (watching.jobs(), watching.seen(watch)) == ([], {1: "moving", 2: "moving"})
    watching.look()
    assert (watching.jobs(), watching.seen(watch)) == (["1"], {1: "taken", 2: "moving"})
    training.finish(2)
    watching.look(2)
    watching.look(5)
    assert (watching.jobs(), watching.seen(watch)) == (["1", "2"], {1: "taken", 2: "taken"})


def test_what_an_iteration_became_is_converted_and_named_for_it(watching: Watching, training: MegatronRun) -> None:
    asked = training.watch(watching.out)
    asked["job"] |= {"name": "run 7, {iteration}", "labels": {"team": "a"}}
    watch = watching.watch(asked)
    training.save(100)
    watching.look(2)
    watching.convert()
    assert (watching.out / "100" / "config.json").is_file()
    job = watching.store.jobs().jobs[0]
    assert (job.name, job.labels) == ("run 7, 100", {"team": "a", "watch": watch, "iteration": "100"})
    assert (job.submitted_by, job.state) == ("loopback (watch)", "succeeded")
    seen = watching.watches.iterations(watch)[0]
    assert (seen.job, seen.job_state, seen.target) == (job.id, "succeeded", str(watching.out / "100"))
    audit = Audit(watching.database).page(limit=10, cursor=None, tenant=None, action="submit", job_id=job.id).entries
    assert [(entry.actor, (entry.detail or {})["watch"]) for entry in audit] == [("loopback (watch)", watch)]


def test_a_half_written_iteration_that_lies_at_rest_for_ever_becomes_no_job(watching: Watching, training: MegatronRun) -> None:
    watch = watching.watch(training.watch(watching.out))
    training.begin(1)  # training died here
    training.save(2)  # and was started again, from before
    watching.look(4)
    assert watching.jobs() == ["2"]
    assert watching.seen(watch) == {1: "incomplete", 2: "taken"}
    assert "cut short" in str(watching.watches.iterations(watch)[1].error) or "mp_rank" in str(watching.watches.iterations(watch)[1].error)
    training.finish(1)  # whoever mends it
    training.track(2)
    watching.look(2)
    assert watching.jobs() == ["2", "1"]


def test_the_newest_comes_first_or_the_oldest_and_only_those_that_are_wanted(watching: Watching, training: MegatronRun) -> None:
    for iteration in range(1, 8):
        training.save(iteration)
    watching.watch(training.watch(watching.out, every=2))
    watching.look(2)
    assert watching.jobs() == ["6", "4", "2"]
    watching.watch(training.watch(watching.out / "some", iterations=[1, 5, 9], order="oldest"))
    watching.look(2)
    assert watching.jobs()[3:] == ["1", "5"]
    watching.watch(training.watch(watching.out / "late", since=7))
    watching.look(2)
    assert watching.jobs()[5:] == ["7"]


def test_it_has_to_be_at_rest_for_as_long_as_was_said(watching: Watching, training: MegatronRun) -> None:
    watching.watch(training.watch(watching.out, rest_s=3600))
    training.save(1)
    watching.look(3)
    assert watching.jobs() == []


def test_optimizer_files_that_are_removed_later_make_no_new_job_and_new_weights_do(watching: Watching, training: MegatronRun) -> None:
    watch = watching.watch(training.watch(watching.out))
    training.save(1)
    extra = training.folder(1) / "mp_rank_00" / "distrib_optim.pt"
    extra.write_bytes(b"state of the optimizer")
    watching.look(2)
    extra.unlink()
    watching.look(4)
    assert watching.jobs() == ["1"]
    assert watching.seen(watch) == {1: "taken"}
    watching.convert()
    training.finish(1)  # the run was begun anew: other files
    watching.look(4)
    assert watching.jobs() == ["1", "1"]
    claim = watching.claims.claim()
    assert claim is not None
    assert claim.job.options.on_exists == "reuse"


def test_a_look_that_was_broken_off_between_the_job_and_its_note_makes_no_second_job(
    watching: Watching, training: MegatronRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watching.watch(training.watch(watching.out))
    training.save(1)
    watching.look()
    with monkeypatch.context() as patched:

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(Looks, "take_iteration", die)
        with pytest.raises(KeyboardInterrupt):
            watching.look()
    assert watching.jobs() == ["1"]
    lose_leases(watching.database)
    watching.look(2)
    assert (watching.jobs(), watching.seen(watch)) == (["1"], {1: "taken"})


def test_one_executor_at_a_time_looks_and_one_that_lost_its_lease_says_nothing_more(watching: Watching, training: MegatronRun) -> None:
    watch = watching.watch(training.watch(watching.out))
    first, second = Looks(watching.database, "executor-1"), Looks(watching.database, "executor-2")
    held = first.take()
    assert held is not None
    assert (held.id, second.take()) == (watch, None)
    lose_leases(watching.database)
    taken = second.take()
    assert taken is not None
    with pytest.raises(LeaseLost):
        first.keep(held)
    with pytest.raises(LeaseLost):
        first.release(held, 0)
    second.release(taken, 3600)
    assert first.take() is None


def lose_leases(database: Database) -> None:
    with database.writing() as session:
        for row in session.query(WatchRow):
            row.lease_until = row.lease_until and row.created_at


def test_a_forgotten_job_is_not_made_again(watching: Watching, training: MegatronRun) -> None:
    watch = watching.watch(training.watch(watching.out))
    training.save(1)
    watching.look(2)
    watching.convert()
    assert purge(watching.database, Retention(jobs_days=0)).jobs == 1
    (training.folder(1) / "seen").touch()  # so that it is looked at again as if it were new
    watching.look(4)
    assert watching.jobs() == []
    assert watching.watches.watch(watch).jobs == {"forgotten": 1}


def test_older_targets_give_way_and_only_what_was_made_there_is_removed(watching: Watching, training: MegatronRun) -> None:
    watch = watching.watch(training.watch(watching.out, keep=2))
    for iteration in (1, 2, 3):
        training.save(iteration)
        watching.look(2)
        watching.convert()
    (watching.out / "2" / "mine.txt").write_text("notes")
    watching.look()
    assert sorted(path.name for path in watching.out.iterdir() if path.is_dir()) == ["2", "3"]
    assert not (watching.out / "1.conversion-report.json").exists()
    assert not list(watching.out.glob("1.conversion-report.*"))
    training.save(4)
    watching.look(2)
    watching.convert()
    watching.look(2)
    assert sorted(path.name for path in watching.out.iterdir() if path.is_dir()) == ["2", "3", "4"]
    assert (watching.out / "2" / "model.safetensors.index.json").exists() or list((watching.out / "2").glob("*.safetensors"))
    seen = {one.iteration: one for one in watching.watches.iterations(watch)}
    assert seen[1].removed_at is not None
    assert "mine.txt" in str(seen[2].kept_for)
    assert watching.jobs() == ["1", "2", "3", "4"]


def test_what_is_too_old_to_be_kept_is_not_converted(watching: Watching, training: MegatronRun) -> None:
    for iteration in range(1, 6):
        training.save(iteration)
    watching.watch(training.watch(watching.out, keep=2))
    watching.look(3)
    assert watching.jobs() == ["5", "4"]


def test_a_target_that_another_job_reads_is_kept_until_that_has_ended(watching: Watching, training: MegatronRun) -> None:
    watching.watch(training.watch(watching.out, keep=1))
    training.save(1)
    watching.look(2)
    watching.convert()
    training.save(2)
    watching.look(2)
    watching.convert()
    again = {
        "source": {"format": "huggingface", "path": str(watching.out / "1")},
        "target": {"format": "dcp", "path": str(watching.out / "d")},
    }

    reader = watching.store.submit(parse_job(again))[0]
    watching.look()
    assert (watching.out / "1").exists()
    watching.store.cancel(reader.id)
    watching.look()
    assert not (watching.out / "1").exists()


def test_transformers_checkpoints_are_sources_by_themselves(watching: Watching, source: Path, tmp_path: Path) -> None:
    directory = tmp_path / "trainer"
    directory.mkdir()
    target = {"format": "mindspeed-llm", "path": f"{watching.out}/iter_{{iteration:07d}}"}
    watch = watching.watch({"directory": str(directory), "job": {"source": {"format": "huggingface"}, "target": target}, "rest_s": 0})
    shutil.copytree(source, directory / "checkpoint-500")
    shutil.copytree(source, directory / "checkpoint-1000")
    os.truncate(directory / "checkpoint-1000" / "model.safetensors", 1000)  # training died while it wrote
    shutil.copytree(source, directory / "tmp-checkpoint-1500")
    watching.look(3)
    assert watching.jobs() == ["checkpoint-500"]
    assert watching.seen(watch) == {500: "taken", 1000: "incomplete"}
    watching.convert()
    assert (watching.out / "iter_0000500").is_dir()


def test_a_quota_is_waited_for(watching: Watching, training: MegatronRun) -> None:
    root = str(training.directory.parent)
    Tenants(watching.database).create("team-a", roots=[root], most_queued_jobs=1, actor="test")
    watch = watching.watch(training.watch(watching.out), Caller("ci", "team-a", frozenset({"jobs:write"}), (root,)))
    training.save(1)
    training.save(2)
    watching.look(3)
    assert (watching.jobs(), watching.seen(watch)) == (["2"], {1: "refused", 2: "taken"})
    assert watching.watches.watch(watch).error is None
    watching.convert()
    watching.look()
    assert watching.jobs() == ["2", "1"]


def test_roots_count_at_every_look(watching: Watching, training: MegatronRun) -> None:
    root = str(training.directory.parent)
    tenants = Tenants(watching.database)
    tenants.create("team-a", roots=[root], actor="test")
    watch = watching.watch(training.watch(watching.out), Caller("ci", "team-a", frozenset({"jobs:write"}), (root,)))
    training.save(1)
    tenants.set("team-a", roots=["/nowhere"], actor="test")
    watching.look(3)
    assert watching.jobs() == []
    assert "PathRefused" in str(watching.watches.watch(watch).error)
    tenants.set("team-a", roots=[], actor="test")
    watching.look()
    assert "no roots" in str(watching.watches.watch(watch).error)
    tenants.remove("team-a", actor="test")
    with pytest.raises(NoSuchWatch):
        watching.watches.watch(watch)


def test_a_directory_that_is_not_there_is_told_and_looked_at_again(watching: Watching, training: MegatronRun) -> None:
    directory = training.directory
    away = directory.rename(directory.with_name("away"))
    watch = watching.watch(training.watch(watching.out))
    watching.look()
    assert "cannot open" in str(watching.watches.watch(watch).error)
    away.rename(directory)
    training.save(1)
    watching.look(2)
    assert watching.watches.watch(watch).error is None
    assert watching.jobs() == ["1"]


WRONG = [
    ({"job": {"source": {"format": "huggingface"}, "target": {"format": "dcp", "path": "/out/x"}}}, "no {iteration} in it"),
    ({"job": {"source": {"format": "huggingface"}, "target": {"format": "dcp", "path": "/run/{iteration}"}}}, "is watched"),
    ({"job": {"source": {"format": "huggingface", "path": "/a"}, "target": {"format": "dcp", "path": "/o/{iteration}"}}}, "watch's to set"),
    ({"job": {"source": {"format": "huggingface"}, "target": {"format": "nonsense", "path": "/o/{iteration}"}}}, "no format"),
    ({"job": {"source": {}, "target": {"format": "dcp", "path": "/o/{iteration}"}}}, "is required"),
    ({"job": {}}, "source and target"),
    ({"every": 2, "iterations": [1]}, "exclude one another"),
    ({"every": 0}, "at least 1"),
    ({"rest_s": -1}, "at least 0"),
    ({"keep": 0}, "at least 1"),
    ({"directory": ""}, "directory"),
    ({"colour": "red"}, "no such field"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_what_is_wrong_with_a_watch_is_told_by_its_field(change: dict[str, Any], words: str) -> None:
    good = {"directory": "/run", "job": {"source": {"format": "huggingface"}, "target": {"format": "dcp", "path": "/out/{iteration}"}}}
    parse_watch(json.dumps(good))
    with pytest.raises(JobError) as caught:
        parse_watch(good | change)
    assert words in str(caught.value)


def test_a_field_that_the_iteration_sets_is_not_the_templates() -> None:
    job = {"source": {"format": "mindspeed-llm", "iteration": "7"}, "target": {"format": "huggingface", "path": "/out/{iteration}"}}
    spec = parse_watch({"directory": "/run", "job": job})
    with pytest.raises(JobError, match="watch's to set"):
        job_for(spec, 1, {"path": "/run", "iteration": "1"}, "w")


def test_numbers_are_filled_in_with_as_many_zeros_as_were_asked_for() -> None:
    assert fill_in("/a/{iteration}/{iteration:05d}/{iteration:5}/{other}", 42) == "/a/42/00042/00042/{other}"


def test_the_client_makes_shows_and_removes_watches_and_the_same_one_again_is_the_same(client: Client, a_job: Any) -> None:
    job = {**a_job("/shared/out/{iteration}"), "source": {"format": "huggingface"}}
    watch = {"directory": "/shared/run", "job": job, "every": 10, "name": "seven"}
    made = client.create_watch(watch)
    assert client.create_watch(watch).id == made.id
    assert (made.name, made.directory, made.tenant, made.submitted_by) == ("seven", "/shared/run", "default", "loopback")
    assert [one.id for one in client.watches()] == [made.id]
    assert (client.watch(made.id).iterations, client.iterations(made.id)) == ({}, [])
    assert client.remove_watch(made.id).id == made.id
    with pytest.raises(NoSuchWatch):
        client.watch(made.id)
    with pytest.raises(NoSuchWatch):
        client.remove_watch(made.id)
