"""A job for which a worker may need more memory than it may have is not started; the dry run says so too, and what it would need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import convsvc.service.executor.supervised
import convsvc.service.serve
from convsvc.cli.serve import executor, serve
from convsvc.client import Client
from convsvc.conversion import convert
from convsvc.errors import JobError
from convsvc.execute.forecast import forecast
from convsvc.plan.planner import make_plan
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner
from convsvc.service.executor.supervised import executor_command
from convsvc.service.settings import Settings
from convsvc.service.store.claims import Claims
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind: this is not about the database."""
    return sqlite_url


@pytest.fixture
def job(source: Path, tmp_path: Path) -> dict[str, Any]:
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), "tensor_parallel_size": 2}
    return {"source": {"format": "huggingface", "path": str(source)}, "target": target}


def test_a_job_over_the_limit_fails_before_anything_is_written(store: Store, claims: Claims, job: dict[str, Any], tmp_path: Path) -> None:
    job_id = store.submit(parse_job(job))[0].id
    before = set(tmp_path.iterdir())
    runner = EngineRunner("inline", memory_limit_bytes=32 << 20)
    Executor(claims, lambda: runner).run_one(runner)
    runner.close()
    view = store.job(job_id)
    assert (view.state, view.error and view.error["type"]) == ("failed", "JobError")
    assert "the memory limit is 32 MiB" in view.error["message"]  # type: ignore[index]  # it is there: the state says so
    assert {path for path in set(tmp_path.iterdir()) - before if "mcore" in path.name} == set()


def test_a_dry_run_answers_what_the_command_line_would(settings: Settings, serve_app: Any, job: dict[str, Any]) -> None:
    with serve_app(settings) as url, Client(url) as client:
        plan = client.plan(job)
    here = make_plan(parse_job(job))
    summary, needs = here.summary(), forecast(here)
    assert (plan.fingerprint, plan.balance, plan.tasks) == (summary["fingerprint"], summary["balance"], summary["tasks"])
    assert (plan.needs.projected_bytes, plan.needs.free_bytes_needed) == (needs.projected_bytes, needs.free_bytes_needed)
    assert plan.target.bytes == summary["target"]["bytes"]
    assert not Path(job["target"]["path"]).exists()


def test_a_dry_run_over_the_limit_is_refused_as_the_executor_would(settings: Settings, serve_app: Any, job: dict[str, Any]) -> None:
    with serve_app(replace(settings, memory_limit_bytes=32 << 20)) as url, Client(url) as client:
        with pytest.raises(JobError, match="the memory limit is 32 MiB") as refused:
            client.plan(job)
        needed = refused.value.details["projected_bytes"]
    with serve_app(replace(settings, memory_limit_bytes=needed)) as url, Client(url) as client:
        assert client.plan(job).needs.projected_bytes == needed
    assert convert(job, engine="inline", memory_limit_bytes=needed).bytes_written > 0


@pytest.mark.parametrize(("command", "module"), [(serve, convsvc.service.serve), (executor, convsvc.service.executor.supervised)])
@pytest.mark.parametrize("flags", [["--memory-limit", "512MB"], []], ids=["flag", "environment"])
def test_the_limit_is_given_by_a_flag_or_the_environment(
    command: Any, module: Any, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    take: Callable[..., None] = lambda **settings: given.update(settings)  # noqa: E731  stands for the process that would run
    monkeypatch.setattr(module, "serve" if command is serve else "run_supervised", take)
    monkeypatch.setenv("CONVSVC_MEMORY_LIMIT", "1GiB" if flags else "512MB")
    assert CliRunner().invoke(command, flags, catch_exceptions=False).exit_code == 0
    assert given["memory_limit_bytes"] == 512_000_000


def test_the_supervised_executor_is_told_the_limit() -> None:
    assert executor_command("inline", None, None, 512_000_000)[-2:] == ["--memory-limit-bytes", "512000000"]
    assert "--memory-limit-bytes" not in executor_command("inline", None, None)
