"""The HTTP interface, through a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from convsvc.errors import SourceError
from convsvc.service.executor.presence import Presence
from convsvc.service.openapi import openapi_text
from convsvc.service.settings import Settings
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=10) as http:
        yield http


def test_submitting_answers_201_with_the_job_and_where_it_is(http: httpx.Client, a_job: Make) -> None:
    answer = http.post("/jobs", json=a_job(name="mine", model_type="llama2"))
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["state"], job["name"], job["model_type"], job["target"], job["run"]) == ("queued", "mine", "llama2", "/shared/out", 1)
    alone = http.get(answer.headers["location"]).json()
    assert alone["waiting"]["reason"] == "no-executor"
    assert {**alone, "waiting": job["waiting"]} == job
    assert http.get("/jobs").json() == {"jobs": [job], "next_cursor": None}


def test_a_job_may_be_written_in_yaml(http: httpx.Client) -> None:
    text = "source: {format: huggingface, path: /in}\ntarget: {format: mindspeed-llm, path: /out}\n"
    assert http.post("/jobs", content=text, headers={"Content-Type": "application/yaml"}).status_code == 201


def test_the_same_key_with_the_same_job_answers_200_with_the_first_job(http: httpx.Client, a_job: Make) -> None:
    key = {"Idempotency-Key": "k"}
    first, again = http.post("/jobs", json=a_job(), headers=key), http.post("/jobs", json=a_job(), headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]


def test_the_same_key_with_another_job_is_a_422_problem(http: httpx.Client, a_job: Make) -> None:
    key = {"Idempotency-Key": "k"}
    first = http.post("/jobs", json=a_job(), headers=key).json()
    problem = _problem(http.post("/jobs", json=a_job("/shared/other"), headers=key), 422)
    assert (problem["kind"], problem["details"]["job"]) == ("KeyReused", first["id"])


def test_a_target_in_use_is_a_409_problem_that_names_the_job(http: httpx.Client, a_job: Make) -> None:
    first = http.post("/jobs", json=a_job()).json()
    problem = _problem(http.post("/jobs", json=a_job()), 409)
    assert problem["type"] == "urn:convsvc:problem:target-busy"
    assert problem["details"]["job"] == first["id"]
    assert problem["instance"] == "/jobs"


def test_every_wrong_field_of_a_job_is_named_at_once(http: httpx.Client) -> None:
    job = {"source": {"format": "huggingface", "path": "/in", "tp": 2}, "target": {"format": "mindspeed-llm"}}
    problem = _problem(http.post("/jobs", json=job), 422)
    assert problem["facts"] == ["source.tp: there is no such field (given 2)", "target.path: is required"]
    assert [fault["field"] for fault in problem["details"]["fields"]] == ["source.tp", "target.path"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/jobs/nope", 404),
        ("GET", "/jobs/nope/events", 404),
        ("POST", "/jobs/nope/cancel", 404),
        ("DELETE", "/jobs", 405),
        ("GET", "/jobs?limit=0", 422),
        ("GET", "/jobs?state=asleep", 422),
    ],
)
def test_what_cannot_be_answered_is_a_problem_document(http: httpx.Client, method: str, path: str, status: int) -> None:
    problem = _problem(http.request(method, path), status)
    assert problem["instance"] == path.partition("?")[0]
    assert problem["detail"]


def test_a_body_that_is_no_job_is_refused_by_what_it_is(http: httpx.Client) -> None:
    assert "neither JSON nor YAML" in _problem(http.post("/jobs", content=b"{'"), 422)["detail"]
    assert "not list" in _problem(http.post("/jobs", json=[1]), 422)["detail"]


def test_a_body_too_large_for_a_job_is_refused(http: httpx.Client) -> None:
    assert "at most 1.0 MiB" in _problem(http.post("/jobs", content=b" " * (1 << 20) + b"{}"), 413)["detail"]


def test_a_queued_job_is_canceled_at_once_and_can_be_retried(http: httpx.Client, a_job: Make) -> None:
    path = http.post("/jobs", json=a_job()).headers["location"]
    for _ in range(2):
        answer = http.post(f"{path}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "canceled")
    answer = http.post(f"{path}/retry")
    assert (answer.status_code, answer.json()["state"], answer.json()["run"]) == (202, "queued", 2)
    problem = _problem(http.post(f"{path}/retry"), 409)
    assert problem["kind"] == "IllegalTransition"


def test_logs_are_json_or_text_as_asked_for(http: httpx.Client, a_job: Make, store: Store, claims: Claims) -> None:
    path = http.post("/jobs", json=a_job()).headers["location"]
    claim = claims.claim()
    assert claim is not None
    for text in ("one", "two"):
        claims.log(claim, text)
    assert [line["message"] for line in http.get(f"{path}/logs").json()] == ["one", "two"]
    assert [line["seq"] for line in http.get(f"{path}/logs?after=1").json()] == [2]
    text = http.get(f"{path}/logs", headers={"Accept": "text/plain"})
    assert text.headers["content-type"].startswith("text/plain")
    assert [line.split(" ", 1)[1] for line in text.text.splitlines()] == ["info one", "info two"]


def test_a_dry_run_answers_the_plan_and_leaves_no_job(http: httpx.Client, a_job: Make) -> None:
    plan = http.post("/plans", json=a_job()).json()
    assert (plan["model_type"], plan["target"]["path"]) == ("llama2", "/shared/out")
    assert http.get("/jobs").json()["jobs"] == []


def test_a_dry_run_that_takes_too_long_is_given_up(settings: Settings, serve_app: Any, a_job: Make) -> None:
    answered = threading.Event()
    with serve_app(replace(settings, plan_timeout_s=0.1), plan=lambda job, roots: answered.wait(30)) as url:
        problem = _problem(httpx.post(f"{url}/plans", json=a_job(), timeout=20), 504)
        answered.set()
    assert problem["kind"] == "TooSlow"


def test_what_planning_raises_is_answered_with_its_facts(settings: Settings, serve_app: Any, a_job: Make) -> None:
    def plan(job: Any, roots: Any) -> dict[str, Any]:
        raise SourceError("no config.json", facts=["looked in /shared/in"], do="fetch it")

    with serve_app(settings, plan=plan) as url:
        problem = _problem(httpx.post(f"{url}/plans", json=a_job()), 422)
    assert (problem["detail"], problem["facts"], problem["do"]) == ("no config.json", ["looked in /shared/in"], "fetch it")


def test_a_crash_is_a_500_problem_that_shows_nothing_of_the_inside(settings: Settings, serve_app: Any, a_job: Make) -> None:
    def plan(job: Any, roots: Any) -> dict[str, Any]:
        raise RuntimeError("secret")

    with serve_app(settings, plan=plan) as url:
        answer = httpx.post(f"{url}/plans", json=a_job())
    assert _problem(answer, 500)["detail"] == "the service failed on this request; its log says why"
    assert "secret" not in answer.text


def test_readyz_names_what_is_missing_and_turns_ok_with_an_executor(http: httpx.Client, claims: Claims) -> None:
    problem = _problem(http.get("/readyz"), 503)
    assert problem["facts"] == ["executor: no executor is running"]
    claims.heartbeat()
    assert http.get("/readyz").json() == {"database": "ok", "migrations": "ok", "executor": "ok"}
    claims.sign_off()
    assert http.get("/readyz").status_code == 503


def test_readyz_says_that_every_engine_is_away_and_why(http: httpx.Client, claims: Claims, database: Database) -> None:
    presence = Presence()
    presence.away("Ray does not answer any more: LocalRayletDiedError")
    claims.heartbeat(presence.as_dict())
    [fact] = _problem(http.get("/readyz"), 503)["facts"]
    assert "LocalRayletDiedError" in fact
    Claims(database, "executor-2", engine="ray").heartbeat(Presence().as_dict())
    assert http.get("/readyz").status_code == 200, "another one works"


def test_readyz_of_a_service_without_an_executor_tells_of_them_and_takes_jobs(settings: Settings, serve_app: Any) -> None:
    with serve_app(replace(settings, require_executor=False)) as url:
        answer = httpx.get(f"{url}/readyz")
    assert (answer.status_code, answer.json()["executor"]) == (200, "no executor is running")


@pytest.fixture
def of_another_version(http: httpx.Client, store: Store) -> Iterator[None]:
    """The tables say that they are at 0000, once the service runs."""
    http.get("/livez")  # it has started, and found its tables as they should be
    head, update = store.database.head(), "UPDATE alembic_version SET version_num = '{}'"
    with store.database.writing() as session:
        session.connection().exec_driver_sql(update.format("0000"))
    yield
    with store.database.writing() as session:
        session.connection().exec_driver_sql(update.format(head))


@pytest.mark.usefixtures("of_another_version")
def test_readyz_sees_tables_of_another_version_while_livez_stays_ok(http: httpx.Client, claims: Claims) -> None:
    claims.heartbeat()
    assert "migrations: the tables are at 0000" in _problem(http.get("/readyz"), 503)["facts"][0]
    assert http.get("/livez").json() == {"status": "ok"}


def test_the_catalog_lists_families_formats_and_version(http: httpx.Client) -> None:
    assert {"llama2", "qwen25", "qwen3", "qwen3-moe"} <= {family["name"] for family in http.get("/families").json()}
    assert {"huggingface", "mindspeed-llm"} <= set(http.get("/formats").json()["target"])
    assert http.get("/version").json()["name"] == "convsvc"


def test_openapi_shows_the_job_and_the_problem_and_every_reference_resolves(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Job"}
    assert "tensor_parallel_size" in schemas["MindSpeedTarget"]["properties"]
    references = set(_references(document))
    assert references
    assert references <= {f"#/components/schemas/{name}" for name in schemas}


def _problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    return problem


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "$ref")
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_the_committed_openapi_document_is_that_of_the_application() -> None:
    committed = Path(__file__).parents[2] / "docs" / "openapi.json"
    # What FastAPI's own version words differently (its validation error's schema) is not ours to pin.
    mine, written = json.loads(openapi_text()), json.loads(committed.read_text())
    assert written["paths"] == mine["paths"], "run: python -m convsvc.service.openapi > docs/openapi.json"
    assert _own_schemas(written) == _own_schemas(mine)


def _own_schemas(document: dict[str, Any]) -> dict[str, Any]:
    return {name: schema for name, schema in document["components"]["schemas"].items() if "ValidationError" not in name}
