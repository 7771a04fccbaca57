"""Requests at the edges of what the databases take. Each is answered in the service's own words, on both databases."""

from __future__ import annotations

import json

import httpx
import pytest

PATHS = (
    "/jobs/a%00b", "/jobs/%00/tasks", "/jobs/%00/logs", "/jobs/%00/events", "/jobs?cursor=%00", "/jobs?tenant=%00", "/jobs/%F0%9F%92%A3",
    "/jobs?cursor=%F0%9F%92%A3", "/jobs/%ED%A0%80", "/jobs?cursor=%ED%A0%80", "/jobs/x/logs?after=99999999999999999999",
    "/jobs/x/logs?after=2147483648", "/jobs/x/events?after=9223372036854775807", "/jobs?limit=0", "/jobs/..%2f..%2fetc%2fpasswd",
    "/audit?tenant=%00", "/audit?action=%00", "/audit?job=%00", "/audit?cursor=9223372036854775807", "/audit?cursor=9223372036854775808",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_an_odd_path_or_parameter_is_answered_in_order(url: str, path: str) -> None:
    answer = httpx.get(url + path, timeout=10)
    assert answer.status_code in (200, 404, 422), answer.text


def test_a_seq_beyond_what_the_database_counts_is_a_wrong_parameter(url: str) -> None:
    answer = httpx.get(url + "/jobs/x/events", headers={"Last-Event-ID": str(2**31)}, timeout=10)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize("field", ["name", "model_type"])
@pytest.mark.parametrize("text", ["a\x00b", "\ud800"], ids=["NUL", "half a character"])
def test_a_text_that_no_database_takes_is_a_wrong_field(url: str, field: str, text: str) -> None:
    places = {"source": {"format": "huggingface", "path": "/in"}, "target": {"format": "mindspeed-llm", "path": "/out"}}
    body = httpx.post(url + "/jobs", content=json.dumps({**places, field: text}), timeout=10)
    assert body.status_code == 422
    assert body.json()["details"]["fields"][0]["field"] == field
