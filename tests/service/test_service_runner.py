"""The real runner: planner, inline engine and driver, with jobs that are interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convsvc.service.errors import Draining
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner, StoreListener
from convsvc.service.store.claims import Claim, Claims
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job


@pytest.fixture
def runner() -> Iterator[EngineRunner]:
    runner = EngineRunner("inline")
    yield runner
    runner.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "mcore"


@pytest.fixture
def job_id(store: Store, source: Path, target: Path) -> str:
    job = {
        "source": {"format": "huggingface", "path": str(source)},
        "target": {"format": "mindspeed-llm", "path": str(target), "tensor_parallel_size": 2},
        "options": {"verify": "roundtrip"},
    }
    return store.submit(parse_job(job))[0].id


class Interrupted:
    """Runs a job up to a phase, then ends as `stop` says."""

    def __init__(self, runner: EngineRunner, store: Store, phase: str, stop: Callable[[], bool]) -> None:
        self.runner, self.store, self.phase, self.stop = runner, store, phase, stop

    def __call__(self, claim: Claim, listener: StoreListener, should_stop: Callable[[], bool]) -> dict[str, object]:
        return self.runner(claim, listener, lambda: self.store.job(claim.job_id).progress.phase == self.phase and self.stop())

    def close(self) -> None:
        pass


def drain() -> bool:
    raise Draining("the executor ends")


def test_a_real_job_is_run_and_every_phase_is_told(store: Store, claims: Claims, runner: EngineRunner, job_id: str, target: Path) -> None:
    assert Executor(claims, lambda: runner).run_one(runner)
    job = store.job(job_id)
    assert job.state == "succeeded", job.error
    assert job.plan is not None
    assert (job.model_type, job.plan["target"]["path"]) == ("llama2", str(target))
    phases = [event.data["phase"] for event in store.events(job_id) if event.kind == "phase"]
    assert phases == ["write", "seal", "verify", "compare", "reopen", "publish"]
    assert {task.state for task in store.tasks(job_id)} == {"done"}
    assert job.progress.bytes_done == job.progress.bytes_total > 0


def test_a_job_put_back_after_writing_is_finished_without_writing_again(
    store: Store, claims: Claims, runner: EngineRunner, job_id: str, target: Path
) -> None:
    executor = Executor(claims, lambda: runner)
    assert executor.run_one(Interrupted(runner, store, "verify", drain))
    assert store.job(job_id).state == "queued"
    assert not target.exists()
    assert executor.run_one(runner)
    job = store.job(job_id)
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert job.result["tasks"]["done"] == 0
    assert job.result["tasks"]["skipped"] == job.progress.tasks_done == job.progress.tasks_total > 0
    assert {task.state for task in store.tasks(job_id)} == {"done"}
    assert target.is_dir()


def test_a_job_whose_executor_died_just_after_publishing_succeeds(
    store: Store, database: Database, claims: Claims, runner: EngineRunner, job_id: str, target: Path
) -> None:
    dead = Claims(database, "dead", lease_s=-1)
    claim = dead.claim()
    assert claim is not None
    runner(claim, StoreListener(dead, claim), lambda: False)  # and dies before it can say that the job succeeded
    written = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert Executor(claims, lambda: runner).run_one(runner)
    job = store.job(job_id)
    assert job.state == "succeeded", job.error
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == written


def test_a_target_that_was_there_fails_the_job_and_is_left_alone(
    store: Store, claims: Claims, runner: EngineRunner, job_id: str, target: Path
) -> None:
    target.mkdir()
    (target / "mine").write_text("keep")
    assert Executor(claims, lambda: runner).run_one(runner)
    job = store.job(job_id)
    assert job.error is not None
    assert (job.state, job.error["type"]) == ("failed", "TargetExists")
    assert os.listdir(target) == ["mine"]
