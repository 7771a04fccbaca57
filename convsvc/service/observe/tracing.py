"""OpenTelemetry spans: one a request, one a run of a job with a child for each of its steps and for each attempt at a task.

Spans are made where the extra `otel` is installed and the environment says where they go (OTEL_EXPORTER_OTLP_ENDPOINT); otherwise
nothing of the extra is imported. Workers make none: what is told of a task comes from the events that the driver tells.
A job remembers the request that submitted it (W3C traceparent, in its first event), so that its spans are that trace's.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from convsvc.service.store.database import Database
from convsvc.service.store.models import EventRow

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.trace import Span, TracerProvider

    from convsvc.service.store.claims import Claim

_log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
TRACEPARENT = "traceparent"
_NAME = "convsvc"
_W3C = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_UNTRACED = "livez,readyz,metrics"

_parent: ContextVar[str | None] = ContextVar("traceparent", default=None)
_providers: list[TracerProvider] = []  # none: nothing is traced; OpenTelemetry's own global one can never be taken back


def set_up_tracing(environment: Mapping[str, str] = os.environ) -> None:
    """Trace from here on, where the environment says where to. Says so in the log where the extra it needs is not installed."""
    if not any(environment.get(name) for name in ENDPOINTS):
        return
    try:
        if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is None:
            raise ModuleNotFoundError
    except ModuleNotFoundError:
        _log.warning("nothing is traced, although %s is set: install convsvc[otel]", " or ".join(ENDPOINTS))
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({} if environment.get("OTEL_SERVICE_NAME") else {"service.name": _NAME})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace_to(provider)


def trace_to(provider: TracerProvider | None) -> None:
    """Send all spans of this process to `provider`; None stops it."""
    _providers[:] = [] if provider is None else [provider]


def trace_requests(app: FastAPI) -> None:
    """A span for each of the application's requests, if anything is traced."""
    if _providers:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, tracer_provider=_providers[0], excluded_urls=_UNTRACED, exclude_spans=["receive", "send"])


@contextmanager
def remember_parent(header: str | None) -> Iterator[None]:
    """Within the block, `current_parent` knows the trace that the caller's request belongs to."""
    token = _parent.set(header if header and _W3C.fullmatch(header) else None)
    try:
        yield
    finally:
        _parent.reset(token)


def current_parent() -> str | None:
    """The traceparent for what this request leads to: this process's span where it makes one, else what the caller sent."""
    if not _providers:
        return _parent.get()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(TRACEPARENT) or _parent.get()


def traced() -> dict[str, str]:
    """What an event keeps of the request that it comes from, so that its trace can be gone on with; nothing where there is none."""
    parent = current_parent()
    return {TRACEPARENT: parent} if parent else {}


class JobSpans:
    """The spans of one run. This one makes none; `job_spans` answers the right kind."""

    def step(self, name: str) -> None:
        """The run does something else now: plan, open, write, seal, verify, compare or publish."""

    def task_started(self, task: int, name: str, attempt: int) -> None: ...

    def task_ended(self, task: int, facts: Mapping[str, Any], error: str | None = None) -> None:
        """`facts` become attributes; `error` is the message of what the attempt failed with."""


class _TracedJob(JobSpans):
    def __init__(self, provider: TracerProvider, job: Span) -> None:
        self._tracer, self._job = provider.get_tracer(_NAME), job
        self._step: Span = job
        self._tasks: dict[int, Span] = {}

    def step(self, name: str) -> None:
        self._end_step()
        self._step = self._start(name, self._job, {})

    def task_started(self, task: int, name: str, attempt: int) -> None:
        self._tasks[task] = self._start("task", self._step, {"convsvc.task": task, "convsvc.task.name": name, "convsvc.attempt": attempt})

    def task_ended(self, task: int, facts: Mapping[str, Any], error: str | None = None) -> None:
        span = self._tasks.pop(task, None)
        if span is None:
            return
        span.set_attributes({f"convsvc.{name}": value for name, value in facts.items() if isinstance(value, str | int | float)})
        _end(span, error)

    def end(self) -> None:
        for span in self._tasks.values():
            _end(span, "not ended when the run did")
        self._end_step()

    def _start(self, name: str, parent: Span, attributes: dict[str, Any]) -> Span:
        from opentelemetry.trace import set_span_in_context

        return self._tracer.start_span(f"convsvc.{name}", set_span_in_context(parent), attributes=attributes)

    def _end_step(self) -> None:
        if self._step is not self._job:
            self._step.end()


@contextmanager
def job_spans(database: Database, claim: Claim) -> Iterator[JobSpans]:
    """A run of a job, from its first step "plan" to the block's end; it has failed if the block raises."""
    if not _providers:
        yield JobSpans()
        return
    job = _start_job(database, claim)
    spans, error = _TracedJob(_providers[0], job), None
    spans.step("plan")
    try:
        yield spans
    except BaseException as stop:
        error = f"{type(stop).__name__}: {stop}"
        raise
    finally:
        spans.end()
        _end(job, error)


def _start_job(database: Database, claim: Claim) -> Span:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    with database.reading() as session:
        first = session.get(EventRow, (claim.job_id, 1))
        parent = first.data.get(TRACEPARENT) if first else None
    context = TraceContextTextMapPropagator().extract({TRACEPARENT: parent} if parent else {})
    attributes: dict[str, str | int] = {"convsvc.job": claim.job_id, "convsvc.run": claim.run, "convsvc.tenant": claim.tenant}
    return _providers[0].get_tracer(_NAME).start_span("convsvc.job", context, attributes=attributes)


def _end(span: Span, error: str | None) -> None:
    if error is not None:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, error))
    span.end()
