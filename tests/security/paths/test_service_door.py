"""Through the service: what a tenant's job may read and write is decided anew when an executor takes it up, by the tenant's roots then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from convsvc.errors import PathRefused, TargetError
from convsvc.execute.staging.publishing import discard_left, tidy_published
from convsvc.roots import Roots
from convsvc.service.access.identity import LOOPBACK, Caller
from convsvc.service.access.tenants import Tenants
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.views import JobView
from convsvc.spec import parse_job
from tests.security.paths.world import World

ACTOR = "the test"


class Service:
    """A job store, one tenant whose roots are the world's, and an executor that runs jobs in this process."""

    def __init__(self, world: World, database: Database) -> None:
        self.store, self.tenants = Store(database), Tenants(database)
        self.tenants.create("team-a", roots=list(world.roots.paths), actor=ACTOR)
        self.caller = Caller("ci", "team-a", frozenset({"jobs:read", "jobs:write"}), world.roots.paths)
        self._runner = EngineRunner("inline")
        self._executor = Executor(Claims(database, "executor-1", engine="inline"), lambda: self._runner)

    def submit(self, job: dict[str, Any], caller: Caller | None = None) -> str:
        return self.store.submit(parse_job(job), caller=caller or self.caller)[0].id

    def run(self, job_id: str) -> JobView:
        assert self._executor.run_one(self._runner)
        return self.store.job(job_id)

    def close(self) -> None:
        self._runner.close()


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    database = Database(f"sqlite:///{world.base}/convsvc.db")
    database.migrate()
    service = Service(world, database)
    yield service
    service.close()
    database.close()


def refused(job: JobView) -> bool:
    return job.state == "failed" and job.error is not None and job.error["type"] == "PathRefused"


def test_a_tenants_job_is_run(service: Service, world: World) -> None:
    job = service.run(service.submit(world.to_mcore()))
    assert job.state == "succeeded", job.error
    assert (world.tenant / "out").is_dir()


def test_a_link_that_is_put_there_after_the_job_was_taken_is_not_followed(service: Service, world: World) -> None:
    before = world.seen_outside()
    job_id = service.submit(world.to_mcore())
    (world.tenant / "hf").rename(world.tenant / "hf-was")
    (world.tenant / "hf").symlink_to(world.outside / "hf")
    assert refused(service.run(job_id))
    assert world.seen_outside() == before
    assert world.marked() == []


def test_a_target_that_becomes_a_link_after_the_job_was_taken_gets_nothing(service: Service, world: World) -> None:
    before = world.seen_outside()
    job_id = service.submit(world.to_mcore(on_exists="overwrite"))
    (world.tenant / "out").symlink_to(world.outside / "folder")
    assert refused(service.run(job_id))
    assert world.seen_outside() == before


def test_roots_that_were_taken_away_count_for_jobs_that_wait(service: Service, world: World) -> None:
    first, second = service.submit(world.to_mcore()), service.submit(world.to_mcore(target=world.tenant / "out2"))
    service.tenants.set("team-a", roots=[str(world.shared)], actor=ACTOR)
    assert refused(service.run(first))
    service.tenants.set("team-a", roots=[], actor=ACTOR)
    assert refused(service.run(second))
    assert not (world.tenant / "out").exists()
    assert not (world.tenant / "out2").exists()


@pytest.mark.parametrize("clean_up", [discard_left, tidy_published])
@pytest.mark.parametrize("suffix", ["", "-old", "-ended", "-lock"])
def test_cleaning_up_after_a_job_removes_nothing_outside(world: World, clean_up: Callable[[Path, Roots], None], suffix: str) -> None:
    """What a canceled job has left beside its target may have become something else by then."""
    before = world.seen_outside()
    (world.tenant / f".out.convsvc{suffix}").symlink_to(world.outside / "folder")
    with suppress(TargetError):
        clean_up(world.tenant / "out", world.roots)
    assert world.seen_outside() == before
    (world.tenant / "link").symlink_to(world.outside)
    with pytest.raises(PathRefused):
        clean_up(world.tenant / "link" / "out", world.roots)
    assert world.seen_outside() == before


def test_jobs_from_this_machine_alone_go_anywhere(service: Service, world: World) -> None:
    job = service.run(service.submit(world.to_mcore(world.outside / "hf"), LOOPBACK))
    assert job.state == "succeeded", job.error
