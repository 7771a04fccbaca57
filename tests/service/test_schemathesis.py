"""Requests that schemathesis makes of the OpenAPI document, valid and not, to the real application on a real socket.

No 5xx, no status, content type, header or body that the document does not speak of: without tokens on SQLite, with an administrator's
token on PostgreSQL, and with none where one is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from convsvc.service.access.tenants import Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.app import create_app
from convsvc.service.serve import http_config
from convsvc.service.settings import Settings
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job
from tests.service.listening import listening
from tests.service.planned import planned
from tests.service.postgres_server import Postgres

EXAMPLES = 15
CHECKS = (
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
)
SCHEMA = schemathesis.openapi.from_dict(create_app(Settings(database_url="sqlite://")).openapi())
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
PROBES = ("/livez", "/readyz")  # they ask for no token
GUARDED = [operation for operation in OPERATIONS if operation.path not in PROBES]
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Running:
    """A service; `jobs` are ids of jobs in every state, `ended` those of jobs that have ended for good."""

    url: str
    jobs: tuple[str, ...]
    ended: tuple[str, ...]
    token: str | None = None


@contextmanager
def running(url: str, *, with_token: bool = False, **more: Any) -> Iterator[Running]:
    """A service whose planner answers at once and whose executor is heard of."""
    database = Database(url)
    database.migrate()
    jobs, ended = seed(database)
    token = make_token(database) if with_token else None
    app = create_app(Settings(database_url=url, events_poll_s=0.02, executor_silence_s=3600, **more), plan=planned)
    try:
        with listening(http_config(app, "127.0.0.1", 0)) as address:
            yield Running(address, jobs, ended, token)
    finally:
        database.close()


def make_token(database: Database) -> str:
    """An administrator's, of a tenant that may go anywhere: a refused path would hide what comes after."""
    Tenants(database).create("team", roots=["/"], actor="test")
    return Tokens(database).create("ci", "team", ("admin", "jobs:read", "jobs:write"), expires_at=None, actor="test")[1]


def seed(database: Database) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Jobs in every state; all ids, and those of the ended ones."""
    store, claims = Store(database), Claims(database, "executor", engine="inline")
    claims.heartbeat()
    ids = [store.submit(job(f"/seeded/{number}"))[0].id for number in range(7)]
    claimed = [claims.claim() for _ in range(5)]
    for claim in claimed:
        assert claim is not None
        claims.log(claim, "a line\nand another")
    for claim in claimed[:3]:
        assert claim is not None
        claims.planned(claim, "llama2", {"files": 1}, [PlannedTask(0, "layer 0", 100)])
    done, failed = claimed[1:3]
    assert done is not None
    assert failed is not None
    for event in ("write", "seal", "verify", "publish"):
        claims.phase(done, event, 1)
    claims.succeed(done, {"target": "/seeded"})
    claims.fail(failed, {"type": "PlanError", "message": "no"})
    for number in (3, 6):
        store.cancel(ids[number])
    states = {store.job(each).state for each in ids}
    assert {"queued", "succeeded", "failed", "canceled", "canceling"} <= states
    return tuple(ids), tuple(each for each in ids if store.job(each).state == "succeeded")  # others may be retried


def job(target: str) -> Any:
    return parse_job({"source": {"format": "huggingface", "path": "/in"}, "target": {"format": "mindspeed-llm", "path": target}})


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(f"sqlite:///{tmp_path_factory.mktemp('opened')}/convsvc.db") as service:
        yield service


@pytest.fixture(scope="module")
def with_admin(postgres: Postgres) -> Iterator[Running]:
    url = postgres.new()
    with running(url, with_token=True) as service:
        yield service
    postgres.drop(url)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(f"sqlite:///{tmp_path_factory.mktemp('closed')}/convsvc.db", require_tokens=True) as service:
        yield service


def cases(operation: Any, service: Running) -> st.SearchStrategy[Any]:
    """Valid requests and others; two of three with the id of a job that is there. Events of a job that goes on would go on too."""
    made = st.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    if "{job_id}" not in operation.path:
        return made
    known = service.ended if operation.path.endswith("/events") else service.jobs
    return st.builds(_with_id, made, st.sampled_from((*known, *known, *[None] * len(known))))


def _with_id(case: Any, job_id: str | None) -> Any:
    if job_id is not None:
        case.path_parameters = {**(case.path_parameters or {}), "job_id": job_id}
    return case


def ask_all(operation: Any, service: Running, check: Callable[[Any, Any], None]) -> None:
    """Draws requests of the operation, sends each, and has the answer checked."""

    @bounded
    @given(case=cases(operation, service))
    def ask(case: Any) -> None:
        headers = {"Authorization": f"Bearer {service.token}"} if service.token else None
        check(case, case.call(base_url=service.url, headers=headers, timeout=10))

    ask()


def conforms(case: Any, response: Any) -> None:
    assert str(response.status_code) in case.operation.definition.raw["responses"], f"{response.status_code} is not in the document"
    case.validate_response(response, checks=list(CHECKS))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_without_tokens_every_answer_is_one_that_the_document_shows(operation: Any, opened: Running) -> None:
    ask_all(operation, opened, conforms)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_with_a_token_every_answer_is_one_that_the_document_shows(operation: Any, with_admin: Running) -> None:
    ask_all(operation, with_admin, conforms)


@pytest.mark.parametrize("operation", GUARDED, ids=lambda operation: operation.label)
def test_where_a_token_is_needed_nothing_is_learnt_without(operation: Any, closed: Running) -> None:
    def refused(case: Any, response: Any) -> None:
        conforms(case, response)
        assert response.status_code in (401, 429), response.text

    ask_all(operation, closed, refused)


def test_no_operation_is_left_out() -> None:
    labels = {operation.label for operation in OPERATIONS}
    assert {"POST /v1/jobs", "GET /v1/jobs", "GET /v1/jobs/{job_id}/events", "POST /v1/plans", "GET /livez"} <= labels
