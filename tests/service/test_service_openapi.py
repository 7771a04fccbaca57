"""The committed interface is what the client reads: each view is a schema of it."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import convsvc.client
from convsvc.service.routes import streams
from convsvc.service.views import EventView

COMMITTED = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
VIEWS = [view for name in convsvc.client.__all__ if is_dataclass(view := getattr(convsvc.client, name))]
NOON = datetime(2024, 5, 31, 12, tzinfo=timezone.utc)
IN_STREAMS = {EventView}  # OpenAPI knows it as the events' text


def test_there_are_views_to_compare() -> None:
    assert {view.__name__ for view in VIEWS} >= {"JobView", "TaskView", "LogLine", "PlanView", "Progress"}


@pytest.mark.parametrize("view", [view for view in VIEWS if view not in IN_STREAMS], ids=lambda view: str(view.__name__))
def test_a_views_fields_are_those_of_its_schema(view: Any) -> None:
    schema = COMMITTED["components"]["schemas"][view.__name__]
    assert list(schema["properties"]) == sorted(field.name for field in fields(view))
    without_default = {field.name for field in fields(view) if field.default is MISSING and field.default_factory is MISSING}
    assert set(schema["required"] if without_default else []) == without_default


def test_an_event_is_described_with_its_fields() -> None:
    told = streams.EVENT["properties"]["data"]["description"]
    assert all(field.name in told for field in fields(EventView))


def test_every_route_that_the_client_asks_for_is_in_the_document() -> None:
    from convsvc.client import following, requests

    job: dict[str, Any] = {}
    asked = [
        requests.submit(job, None), requests.job("x"), requests.jobs(state="failed", since=NOON, labels={"a": None}, limit=1, name="n"),
        requests.tasks("x", states=("done",), after=1, limit=1), requests.task_counts("x"), requests.attempts("x", bad=True, limit=1),
        requests.logs("x", after=0, limit=1, task=1, level="info", tail=1), requests.executors(True), requests.nodes(), requests.whoami(),
        requests.inspect("/a", "llama2", 1),
        requests.cancel("x"), requests.retry("x"), requests.plan(job, 1),
        requests.families(), requests.version(), requests.ready(), following.events("x", 0).request(),
        following.log_stream("x", after=0, task=1, level="info").request(),
    ]  # fmt: skip
    for request in asked:
        operation = COMMITTED["paths"][request.path.replace("/x", "/{job_id}")][request.method.lower()]
        known = {(parameter["in"], parameter["name"].lower()) for parameter in operation.get("parameters", [])}
        given = {("query", name) for name in request.params} | {("header", name.lower()) for name in request.headers if name != "Accept"}
        assert given <= known, request.path
