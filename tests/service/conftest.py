"""The real application behind a real socket, a real database of either kind, and a runner that stands in for planner, engine and driver."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from convsvc.client import Client
from convsvc.errors import Canceled
from convsvc.plan.plan import Plan
from convsvc.plan.records import PlannedFile, Task
from convsvc.service.app import create_app
from convsvc.service.executor.runner import StoreListener
from convsvc.service.settings import Settings
from convsvc.service.store.claims import Claim, Claims
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from tests.service import postgres_server
from tests.service.listening import listening
from tests.service.planned import planned
from tests.service.postgres_server import Postgres
from tests.tiny_checkpoints import write_llama


def job_for(target: str = "/shared/out", **more: Any) -> dict[str, Any]:
    source = {"format": "huggingface", "path": "/shared/in"}
    return {"source": source, "target": {"format": "mindspeed-llm", "path": target}, **more}


def plan_for(claim: Claim, tasks: int) -> Plan:
    return Plan(
        job=dict(claim.job.model_dump(mode="json")),
        model_type="llama2",
        fingerprint="f",
        source_files=(),
        source_tensors=(),
        target_files=(PlannedFile("model.pt", 100 * tasks, "torch"),),
        target_tensors=(),
        skeletons=(),
        skeleton_of=(),
        side_files=(),
        tasks=tuple(Task(n, f"layer {n}", (), 100, 100) for n in range(tasks)),
    )


@dataclass
class StandIn:
    """Reports as the driver would. `before(task)` is called before each task: it may raise, or wait."""

    tasks: int = 3
    before: Callable[[int], None] = lambda task: None
    claims: list[Claim] = field(default_factory=list)

    def __call__(self, claim: Claim, listener: StoreListener, should_stop: Callable[[], bool]) -> dict[str, Any]:
        self.claims.append(claim)
        listener.planned(plan_for(claim, self.tasks))
        listener.phase("write", self.tasks)
        for number in range(self.tasks):
            listener.task_started(number, f"layer {number}", 1)
            listener.flush()
            self.before(number)
            if should_stop():
                raise Canceled("the job was canceled")
            listener.task_done(number, {"bytes_written": 100, "bytes_read": 100, "seconds": 0.1, "worker": "here"})
        listener.phase("seal", 0)
        listener.phase("verify", 1)
        listener.task_done(0, {"bytes_written": 0, "bytes_read": 100, "seconds": 0.1, "worker": "here"})
        listener.phase("publish", 0)
        return {"target": claim.job.target.path, "tensors": 7}

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this process's own, or the one that $CONVSVC_TEST_POSTGRES_URL names."""
    stated, bin_dir = os.environ.get(postgres_server.URL), postgres_server.binaries()
    if stated:
        yield Postgres(stated)
    elif bin_dir:
        with postgres_server.cluster(bin_dir) as server:
            yield server
    else:
        pytest.skip(f"no PostgreSQL server on this machine, and no ${postgres_server.URL}")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/convsvc.db"


@pytest.fixture(scope="session")
def shared_postgres_url(postgres: Postgres) -> Iterator[str]:
    url = postgres.new()
    yield url
    postgres.drop(url)


@pytest.fixture
def postgres_url(postgres: Postgres, shared_postgres_url: str) -> Iterator[str]:
    """A PostgreSQL database with all tables, which is this test's as long as it runs."""
    database = Database(shared_postgres_url)
    database.migrate()  # the first test, and one that comes after a test of migrations
    database.close()
    yield shared_postgres_url
    postgres.empty(shared_postgres_url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A job store on each kind of database: every test that uses one is run on both."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database, "executor-1", engine="inline")


@contextmanager
def serving(settings: Settings, plan: Callable[[Any], dict[str, Any]] | None = None, port: int = 0) -> Iterator[str]:
    config = uvicorn.Config(create_app(settings, plan=plan), port=port, log_level="error", timeout_graceful_shutdown=1)
    with listening(config) as url:
        yield url


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, plan_timeout_s=20, events_poll_s=0.02, ping_s=0.2)


@pytest.fixture
def url(settings: Settings, database: Database) -> Iterator[str]:
    with serving(settings, plan=planned) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout_s=10) as client:
        yield client


@pytest.fixture
def a_job() -> Callable[..., dict[str, Any]]:
    """Makes a job's JSON, by its target."""
    return job_for


@pytest.fixture
def serve_app() -> Callable[..., Any]:
    """Serves an application with other settings than `url`'s."""
    return serving


@pytest.fixture
def stand_in() -> type[StandIn]:
    """The runner that stands in for planner, engine and driver."""
    return StandIn


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Llama of one layer."""
    return write_llama(tmp_path / "hf", layers=1)
