"""Spans: of requests and of runs, in one trace; and nothing of OpenTelemetry where nobody asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from convsvc.errors import NoSpace
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner
from convsvc.service.observe.tracing import current_parent, remember_parent, set_up_tracing, trace_to
from convsvc.service.store.claims import Claims
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def spans() -> Iterator[Any]:
    """Where the spans of this process go: a list in memory. Made ahead of the application."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_to(provider)
    yield exporter
    trace_to(None)
    provider.shutdown()


def children(exporter: Any, parent: Any) -> list[str]:
    found = [span for span in exporter.get_finished_spans() if span.parent and span.parent.span_id == parent.context.span_id]
    return [span.name for span in sorted(found, key=lambda span: span.start_time)]


def named(exporter: Any, name: str) -> list[Any]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def test_a_run_has_its_steps_as_children_and_they_its_tasks(spans: Any, store: Store, claims: Claims, source: Path, tmp_path: Path) -> None:
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "out")}
    job = parse_job({"source": {"format": "huggingface", "path": str(source)}, "target": target})
    job_id = store.submit(job)[0].id
    runner = EngineRunner("inline")
    assert Executor(claims, lambda: runner).run_one(runner)
    runner.close()
    assert store.job(job_id).state == "succeeded"
    [run] = named(spans, "convsvc.job")
    assert dict(run.attributes) == {"convsvc.job": job_id, "convsvc.run": 1, "convsvc.tenant": "default"}
    assert children(spans, run) == [f"convsvc.{step}" for step in ("plan", "open", "write", "seal", "verify", "reopen", "publish")]
    tasks = len(store.tasks(job_id))
    for step in ("write", "verify"):
        [span] = named(spans, f"convsvc.{step}")
        assert children(spans, span) == ["convsvc.task"] * tasks
    task = named(spans, "convsvc.task")[0]
    assert task.attributes["convsvc.attempt"] == 1
    assert task.attributes["convsvc.bytes_written"] > 0
    assert task.attributes["convsvc.worker"].startswith("inline-")


def test_attempts_that_fail_and_the_run_that_does_say_why(spans: Any, store: Store, claims: Claims, stand_in: Any, a_job: Any) -> None:
    def fail(task: int) -> None:
        raise NoSpace("the disk is full")

    store.submit(parse_job(a_job()))
    Executor(claims, stand_in).run_one(stand_in(before=fail))
    [run], [task] = named(spans, "convsvc.job"), named(spans, "convsvc.task")
    assert run.status.description == "NoSpace: the disk is full"
    assert not run.status.is_ok
    assert task.status.description == "not ended when the run did"


def test_the_run_belongs_to_the_trace_of_the_request_that_submitted_it(
    spans: Any, url: str, claims: Claims, stand_in: Any, a_job: Any
) -> None:
    answer = httpx.post(f"{url}/jobs", json=a_job(), headers={"traceparent": PARENT})
    assert answer.status_code == 201
    httpx.get(f"{url}/livez")
    Executor(claims, stand_in).run_one(stand_in())
    [request], [run] = named(spans, "POST /jobs"), named(spans, "convsvc.job")
    assert f"{request.context.trace_id:032x}" == f"{run.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == SPAN
    assert run.parent.span_id == request.context.span_id
    assert {span.name for span in spans.get_finished_spans() if span.name.startswith("GET")} == set(), "probes are not traced"


def test_a_service_that_traces_nothing_still_passes_the_callers_trace_on(url: str, store: Store, a_job: Any) -> None:
    kept = httpx.post(f"{url}/jobs", json=a_job("/shared/1"), headers={"traceparent": PARENT}).json()["id"]
    without = httpx.post(f"{url}/jobs", json=a_job("/shared/2")).json()["id"]
    assert store.events(kept)[0].data["traceparent"] == PARENT
    assert "traceparent" not in store.events(without)[0].data


@pytest.mark.parametrize("header", ["nonsense", PARENT + "-more", PARENT.replace(TRACE, "0" * 32), PARENT.upper(), "00-'; DROP--01", None])
def test_a_header_that_is_no_traceparent_is_not_kept(header: str | None) -> None:
    with remember_parent(header):
        assert current_parent() is None


def test_without_an_endpoint_nothing_of_the_extra_is_imported(tmp_path: Path) -> None:
    code = """
import sys
from convsvc.service.app import create_app
from convsvc.service.settings import Settings
from convsvc.service.observe.tracing import set_up_tracing
import convsvc.service.executor.executor
set_up_tracing()
create_app(Settings(database_url="sqlite:///" + sys.argv[1]))
parts = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation")  # FastAPI takes the API by itself
print([name for name in sys.modules if name.startswith(parts)])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", code, str(tmp_path / "c.db")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "[]\n"


def test_an_endpoint_without_the_extra_is_said_and_does_no_harm(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    set_up_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    assert "install convsvc[otel]" in caplog.text
    assert current_parent() is None


def test_with_an_endpoint_spans_are_sent_there(tmp_path: Path) -> None:
    code = """
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
got = []
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        got.append((self.path, b"convsvc" in body or self.headers.get("Content-Encoding")))
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
import os
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
from convsvc.service.observe import tracing
tracing.set_up_tracing()
with tracing._providers[0].get_tracer("test").start_as_current_span("one"):
    assert tracing.current_parent().startswith("00-")
tracing._providers[0].shutdown()
print(got)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True, env={**os.environ})
    assert done.stdout.startswith("[('/v1/traces', ")
