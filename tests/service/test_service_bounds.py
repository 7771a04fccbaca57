"""How long a job and a task may take, and how many jobs run at once, are settings of the executor."""

from __future__ import annotations

from pathlib import Path

import pytest

from convsvc.errors import DeadlinePassed
from convsvc.service.executor.bounds import Bounds
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner
from convsvc.service.executor.supervised import executor_command
from convsvc.service.store.claims import Claims
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job


def test_a_job_that_takes_too_long_fails_and_its_retry_goes_on(store: Store, claims: Claims, source: Path, tmp_path: Path) -> None:
    job = {
        "source": {"format": "huggingface", "path": str(source)},
        "target": {"format": "mindspeed-llm", "path": str(tmp_path / "out")},
    }
    job_id = store.submit(parse_job(job))[0].id
    late = EngineRunner("inline", bounds=Bounds(deadline_s=0.0))
    assert Executor(claims, lambda: late).run_one(late)
    view = store.job(job_id)
    assert view.state == "failed"
    assert view.error is not None
    assert "deadline" in view.error["message"]
    assert "--deadline-s" in view.error["do"]
    store.retry(job_id)
    runner = EngineRunner("inline")
    assert Executor(claims, lambda: runner).run_one(runner)
    assert store.job(job_id).state == "succeeded"
    late.close()
    runner.close()


def test_a_deadline_counts_from_the_run_and_a_cancel_comes_first() -> None:
    with pytest.raises(DeadlinePassed):
        Bounds(deadline_s=-1).until_deadline(lambda: False)()
    assert Bounds(deadline_s=-1).until_deadline(lambda: True)()
    assert not Bounds(deadline_s=3600).until_deadline(lambda: False)()


def test_a_check_that_is_late_does_not_promise_that_a_retry_goes_on() -> None:
    with pytest.raises(DeadlinePassed) as late:
        Bounds(deadline_s=-1).until_deadline(lambda: False, goes_on=False)()
    assert "anew" in str(late.value.do)


def test_the_supervised_executor_is_told_of_every_bound_that_is_not_usual() -> None:
    assert Bounds().words() == []
    command = executor_command("ray", None, None, None, Bounds(3, 60, 7200, True))
    at = command.index("--concurrency")
    assert command[at:] == ["--concurrency", "3", "--task-timeout-s", "60", "--deadline-s", "7200", "--autoscaling"]
