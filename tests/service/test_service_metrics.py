"""`/metrics`: the page is what Prometheus reads, and its figures are those of what was done."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from convsvc.errors import NoSpace
from convsvc.service.access.tenants import Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.app import AT_ROOT, VERSIONED, create_app
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner
from convsvc.service.observe.metrics import HttpMetrics
from convsvc.service.settings import Settings
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import JobRow
from convsvc.service.store.retention import Retention, purge
from convsvc.service.store.tallies import BOUNDS_S, Tally, add_tallies, read_tallies
from convsvc.service.store.task_logs import Report
from convsvc.spec import parse_job

DOCS = Path(__file__).parents[2] / "docs" / "observability.md"

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Page:
    """A scrape. `page("name", label="value")` is a figure; it fails where there is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = [sample for family in self.families.values() for sample in family.samples]
        self.figures: Figures = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}

    def __call__(self, name: str, **labels: str) -> float:
        return self.figures[name, frozenset(labels.items())]


@pytest.fixture
def scrape(url: str) -> Iterator[Callable[[], Page]]:
    with httpx.Client(base_url=url, timeout=20) as http:

        def ask() -> Page:
            answer = http.get("/metrics")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=")
            return Page(answer.text)

        yield ask


@pytest.fixture
def run(store: Store, claims: Claims, stand_in: Any, a_job: Any) -> Callable[..., str]:
    """Submits a job and runs it to its end."""

    def run(target: str, **runner: Any) -> str:
        job_id = store.submit(parse_job(a_job(target)))[0].id
        assert Executor(claims, stand_in).run_one(stand_in(**runner))
        return job_id

    return run


def full(task: int) -> None:
    raise NoSpace("the disk is full")


def test_jobs_tasks_bytes_waits_and_failures_are_counted_by_tenant(run: Any, scrape: Any, claims: Claims) -> None:
    run("/shared/1")
    run("/shared/2")
    run("/shared/3", before=full)
    claims.heartbeat()
    page = scrape()
    assert page("convsvc_jobs", state="succeeded", tenant="default") == 2
    assert page("convsvc_jobs", state="failed", tenant="default") == 1
    assert page("convsvc_jobs", state="running", tenant="default") == 0
    assert page("convsvc_jobs_ended_total", state="succeeded", tenant="default") == 2
    assert page("convsvc_job_failures_total", error="NoSpace", tenant="default") == 1
    # A job has three tasks which read and write 100 bytes each, and a check which reads 100.
    assert page("convsvc_bytes_read_total", tenant="default") == 800
    assert page("convsvc_bytes_written_total", tenant="default") == 600
    assert page("convsvc_task_attempts_total", outcome="done", tenant="default") == 8
    for histogram in ("convsvc_job_queue_wait_seconds", "convsvc_job_duration_seconds"):
        assert page(f"{histogram}_count", tenant="default") == 3
        assert 0 < page(f"{histogram}_sum", tenant="default") < 60
        assert page(f"{histogram}_bucket", tenant="default", le="+Inf") == 3
    assert page("convsvc_executors", engine="inline") == 1
    assert page("convsvc_store_up") == 1


def test_tasks_that_are_tried_again_are_counted_and_so_is_what_runs_now(
    store: Store, claims: Claims, stand_in: Any, a_job: Any, scrape: Any
) -> None:
    store.submit(parse_job(a_job()))
    seen: list[Page] = []

    class Hiccups(stand_in):  # type: ignore[misc]  # the fixture is a class
        def __call__(self, claim: Any, listener: Any, should_stop: Any) -> Any:
            listener.planned(self.plan(claim))
            listener.phase("write", 2)
            listener.task_started(0, "layer 0", 1)
            listener.task_failed(0, NoSpace("a hiccup").as_dict(), True, "ray-node-7")
            listener.task_started(0, "layer 0", 2)
            listener.task_done(0, {"bytes_written": 6000, "bytes_read": 6000, "seconds": 0.1, "worker": "w"})
            listener.task_started(1, "layer 1", 1)
            listener.flush()
            seen.append(scrape())
            raise NoSpace("the disk is full")

        def plan(self, claim: Any) -> Any:
            made: list[Any] = []

            class Keep:
                planned = staticmethod(made.append)

                def __getattr__(self, name: str) -> Any:
                    return lambda *_: None

            stand_in(tasks=2)(claim, Keep(), lambda: False)
            return made[0]

    Executor(claims, Hiccups).run_one(Hiccups())
    now, after = seen[0], scrape()
    assert now("convsvc_jobs", state="running", tenant="default") == 1
    assert (now("convsvc_tasks", state="done"), now("convsvc_tasks", state="running")) == (1, 1)
    assert now("convsvc_running_bytes_per_second") == pytest.approx(100 / 60), "a task of the plan writes 100 bytes"
    assert after("convsvc_task_attempts_total", outcome="retried", tenant="default") == 1
    assert after("convsvc_task_attempts_total", outcome="done", tenant="default") == 1
    assert after("convsvc_tasks", state="done") == 0, "tasks of jobs that have ended are counted by their attempts"


def test_a_job_taken_over_from_a_dead_executor_is_a_lease_that_expired(
    store: Store, database: Database, stand_in: Any, a_job: Any, scrape: Any
) -> None:
    store.submit(parse_job(a_job()))
    assert Claims(database, "dead", lease_s=-1).claim()
    assert Executor(Claims(database, "alive"), stand_in).run_one(stand_in())
    assert scrape()("convsvc_leases_expired_total", tenant="default") == 1


def test_counters_do_not_fall_when_jobs_are_purged(run: Any, scrape: Any, database: Database) -> None:
    run("/shared/1")
    before = scrape()
    with database.writing() as session:
        for row in session.scalars(select(JobRow)):
            row.ended_at = row.ended_at - timedelta(days=200)  # type: ignore[operator]  # it has ended
    assert purge(database, Retention()).jobs == 1
    after = scrape()
    assert after("convsvc_jobs", state="succeeded", tenant="default") == 0
    counters = [key for key in before.figures if key[0].startswith("convsvc_") and key[0].endswith(("_total", "_count", "_bucket"))]
    assert len(counters) > 20
    fallen = [key for key in counters if after.figures[key] < before.figures[key]]
    assert not fallen


def test_a_retried_job_keeps_what_its_first_run_counted(run: Any, scrape: Any, store: Store, claims: Claims, stand_in: Any) -> None:
    job_id = run("/shared/1", before=full)
    store.retry(job_id)
    Executor(claims, stand_in).run_one(stand_in())
    page = scrape()
    assert page("convsvc_jobs_ended_total", state="failed", tenant="default") == 1
    assert page("convsvc_jobs_ended_total", state="succeeded", tenant="default") == 1
    assert page("convsvc_job_queue_wait_seconds_count", tenant="default") == 2


def test_a_real_conversion_reads_and_writes_what_its_files_hold(
    source: Path, tmp_path: Path, store: Store, claims: Claims, scrape: Any
) -> None:
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "out")}
    job_id = store.submit(parse_job({"source": {"format": "huggingface", "path": str(source)}, "target": target}))[0].id
    runner = EngineRunner("inline")
    assert Executor(claims, lambda: runner).run_one(runner)
    runner.close()
    job = store.job(job_id)
    assert job.state == "succeeded", job.error
    page = scrape()
    assert job.result is not None
    assert page("convsvc_bytes_written_total", tenant="default") == job.result["bytes_written"]
    assert page("convsvc_bytes_read_total", tenant="default") == job.result["bytes_read"]
    assert page("convsvc_bytes_written_total", tenant="default") == 2 * 4400, "the model has 4400 weights of two bytes"


def test_requests_are_counted_by_route_and_never_by_path(url: str, scrape: Any, store: Store, a_job: Any) -> None:
    ids = [store.submit(parse_job(a_job(f"/shared/{n}")))[0].id for n in range(3)]
    for job_id in ids:
        httpx.get(f"{url}/jobs/{job_id}", timeout=60, headers={"X-Request-ID": "one-of-mine"})
    httpx.get(f"{url}/jobs/nope", timeout=60)
    for n in range(20):
        httpx.get(f"{url}/no/such/{n}", timeout=60)
    httpx.request("BREW", f"{url}/jobs")
    page = scrape()
    assert page("convsvc_http_requests_total", method="GET", route="/jobs/{job_id}", status="200") == 3
    assert page("convsvc_http_requests_total", method="GET", route="/jobs/{job_id}", status="404") == 1
    assert page("convsvc_http_requests_total", method="GET", route="none", status="404") == 20
    assert page("convsvc_http_request_seconds_count", method="GET", route="/jobs/{job_id}") == 4
    routes = {str(getattr(route, "path", "")) for router in VERSIONED + AT_ROOT for route in router.routes} | {"none"}
    labels = [dict(key[1]) for key in page.figures if key[0].startswith("convsvc_http_")]
    assert {label["route"] for label in labels} <= routes
    assert {label["method"] for label in labels} <= {"GET", "POST", "other"}
    assert not [job_id for job_id in ids if job_id in page.text]


def test_a_crash_is_counted_and_answered_with_the_requests_id(settings: Settings, serve_app: Any, a_job: Any, database: Database) -> None:
    def plan(job: Any) -> dict[str, Any]:
        raise RuntimeError("secret")

    with serve_app(settings, plan=plan) as url:
        answer = httpx.post(f"{url}/plans", json=a_job(), headers={"X-Request-ID": "mine-1"})
        page = Page(httpx.get(f"{url}/metrics", timeout=60).text)
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine-1")
    assert page("convsvc_http_requests_total", method="POST", route="/plans", status="500") == 1


def test_openmetrics_is_answered_to_who_asks_for_it(url: str, run: Any) -> None:
    run("/shared/1")
    answer = httpx.get(f"{url}/metrics", timeout=60, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "convsvc_jobs" in {family.name for family in parse_openmetrics(answer.text)}


def test_a_database_that_is_away_leaves_the_rest_of_the_page(settings: Settings, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/never-migrated.db")
    metrics = HttpMetrics(database)
    metrics.observe("GET", "/livez", 200, 0.001)
    page = Page(generate_latest(metrics.registry).decode())
    database.close()
    assert page("convsvc_store_up") == 0
    assert page("convsvc_http_requests_total", method="GET", route="/livez", status="200") == 1
    assert "convsvc_jobs" not in page.families


def test_making_an_application_asks_its_database_nothing(tmp_path: Path) -> None:
    create_app(Settings(database_url=f"sqlite:///{tmp_path}/absent/convsvc.db"))
    assert not (tmp_path / "absent" / "convsvc.db").exists()


def test_with_tokens_only_a_token_that_may_scrape_is_answered(settings: Settings, serve_app: Any, database: Database) -> None:
    Tenants(database).create("platform", roots=["/tmp"], actor="a test")
    make = Tokens(database).create
    texts = {scope: make("prometheus", "platform", (scope,), expires_at=None, actor="a test")[1] for scope in ("metrics", "jobs:read")}
    with serve_app(replace(settings, require_tokens=True)) as url:
        statuses = [httpx.get(f"{url}/metrics", timeout=60).status_code]
        statuses += [
            httpx.get(f"{url}/metrics", timeout=60, headers={"Authorization": f"Bearer {text}"}).status_code for text in texts.values()
        ]
        jobs = httpx.get(f"{url}/jobs", timeout=60, headers={"Authorization": f"Bearer {texts['metrics']}"}).status_code
    assert statuses == [401, 200, 403]
    assert jobs == 403


def test_amounts_added_at_the_same_time_are_all_there(database: Database) -> None:
    def add() -> None:
        for _ in range(20):
            with database.writing() as session:
                add_tallies(session, "team", [Tally("bytes_read", 2.0), Tally("jobs_ended", 1, "failed"), Tally("bytes_read", 1.0)])

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with database.reading() as session:
        assert read_tallies(session) == [("bytes_read", "team", "", 240.0), ("jobs_ended", "team", "failed", 80.0)]


def test_a_report_that_is_told_twice_is_counted_once(store: Store, claims: Claims, a_job: Any, scrape: Any) -> None:
    job_id = store.submit(parse_job(a_job()))[0].id
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(0, "layer 0", 100)])
    line = {"at": 1_700_000_000.0, "level": "info", "message": "once"}
    report = Report(1, (line,), (Tally("bytes_written", 100), Tally("task_attempts", 1, "done")))
    for _ in range(2):  # the answer to the first one got lost
        claims.task_done(claim, 0, seconds=1.0, worker="w", report=report)
    page = scrape()
    assert page("convsvc_bytes_written_total", tenant="default") == 100
    assert page("convsvc_task_attempts_total", outcome="done", tenant="default") == 1
    assert [line.message for line in store.logs(job_id)] == ["once"]


def test_what_is_rolled_back_is_not_counted(database: Database) -> None:
    with database.writing() as session:
        add_tallies(session, "team", [Tally("bytes_read", 2.0)])
        session.rollback()
    with database.reading() as session:
        assert read_tallies(session) == []


def test_buckets_reach_from_a_second_to_a_day() -> None:
    assert list(BOUNDS_S) == sorted(BOUNDS_S)
    assert (BOUNDS_S[0], BOUNDS_S[-1]) == (1.0, 86400.0)


def test_every_metric_is_explained_in_the_docs_and_no_other(run: Any, scrape: Any) -> None:
    run("/shared/1")
    explained = set(re.findall(r"^\| `(convsvc_\w+)`", DOCS.read_text(), re.MULTILINE))
    told = {family.name + ("_total" if family.type == "counter" else "") for family in scrape().families.values()}
    assert explained == {name for name in told if name.startswith("convsvc_")}
