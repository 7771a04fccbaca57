"""Looking for jobs and into them over HTTP: filters, pages, attempts, tails; and what is no request of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from convsvc.client import Client
from convsvc.errors import JobError
from convsvc.service.store.claims import Claim, Claims, PlannedTask

Make = Callable[..., dict[str, Any]]
TASKS = [PlannedTask(number, f"layer {number}", 100) for number in range(5)]


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=10) as http:
        yield http


@pytest.fixture
def claim(client: Client, claims: Claims, a_job: Make) -> Claim:
    """A job of five tasks: 0 done, 1 failed and is tried again, 2 runs."""
    client.submit(a_job())
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, TASKS)
    for task in (0, 1, 2):
        claims.task_started(claim, task, 1)
    claims.task_done(claim, 0, worker="node-1")
    claims.task_failed(claim, 1, {"message": "disk gone"}, True, worker="node-9")
    return claim


def test_jobs_are_found_by_label_name_place_time_and_model(client: Client, a_job: Make) -> None:
    first = client.submit(a_job("/shared/a%b", name="nightly qwen", labels={"model": "qwen3", "run": "7"}, model_type="qwen3")).id
    second = client.submit(a_job("/shared/b", name="once", labels={"model": "llama"})).id
    third = client.submit(a_job("/shared/c")).id

    def found(**wanted: Any) -> list[str]:
        return [job.id for job in client.jobs(**wanted).jobs]

    assert found(labels={"model": "qwen3"}) == [first]
    assert found(labels={"model": None}) == [second, first]
    assert found(labels={"model": "qwen3", "run": "8"}) == []
    assert found(name="qwen") == [first]
    assert found(target="a%b") == [first]
    assert found(target="/shared/%") == []
    assert found(model_type="qwen3") == [first]
    assert found(source="/shared/in") == [third, second, first]
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    assert (found(since=soon), found(until=soon), found(until=soon - timedelta(hours=2))) == ([], [third, second, first], [])
    page = client.jobs(limit=2, until=soon)
    assert client.jobs(limit=2, until=soon, cursor=page.next_cursor).jobs[0].id == first
    assert client.job(first).labels == {"model": "qwen3", "run": "7"}


@pytest.mark.parametrize("labels", [{"": "x"}, {"a b": "c"}, {"a": "x y"}, {"a": "x" * 64}, {f"l{n}": "x" for n in range(33)}, {"a": 7}])
def test_labels_are_bounded(client: Client, a_job: Make, labels: dict[str, Any]) -> None:
    with pytest.raises(JobError) as refused:
        client.submit(a_job(labels=labels))
    assert "labels" in refused.value.facts[0]
    assert "input should" not in refused.value.facts[0].lower()


def test_tasks_come_in_pages_and_by_state(client: Client, claim: Claim) -> None:
    def numbers(**wanted: Any) -> list[int]:
        return [task.number for task in client.tasks(claim.job_id, **wanted)]

    assert numbers() == [0, 1, 2, 3, 4]
    assert (numbers(limit=2), numbers(after=1, limit=2), numbers(after=4)) == ([0, 1], [2, 3], [])
    assert (numbers(states=["done"]), numbers(states=["failed", "running"])) == ([0], [1, 2])
    assert client.task_counts(claim.job_id) == {"done": 1, "failed": 1, "running": 1, "pending": 2}


def test_all_tasks_are_read_a_page_at_a_time(client: Client, claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convsvc.client.requests.PAGE", 2)
    assert [task.number for task in client.tasks(claim.job_id)] == [0, 1, 2, 3, 4]


def test_attempts_say_where_they_were_and_how_they_ended(client: Client, claim: Claim) -> None:
    assert {one.task: one.outcome for one in client.attempts(claim.job_id)} == {0: "done", 1: "failed", 2: None}
    [bad] = client.attempts(claim.job_id, bad=True)
    assert (bad.task, bad.run, bad.worker, bad.error) == (1, 1, "node-9", {"message": "disk gone"})


def test_a_log_has_a_tail_and_says_where_a_page_ends(client: Client, http: httpx.Client, claims: Claims, claim: Claim) -> None:
    for number in range(10):
        claims.log(claim, f"line {number}")
    assert [line.message for line in client.logs(claim.job_id, tail=2)] == ["line 8", "line 9"]
    [warning] = client.logs(claim.job_id, tail=1, level="warning")
    assert warning.message.startswith("task layer 1")
    text = {"Accept": "text/plain"}
    first = http.get(f"/v1/jobs/{claim.job_id}/logs?limit=4", headers=text)
    after = first.headers["x-next-after"]
    rest = http.get(f"/v1/jobs/{claim.job_id}/logs?after={after}", headers=text)
    assert "x-next-after" not in rest.headers
    assert first.text + rest.text == http.get(f"/v1/jobs/{claim.job_id}/logs", headers=text).text
    assert http.get(f"/v1/jobs/{claim.job_id}/logs?tail=1", headers=text).text.endswith("line 9\n")


def test_the_interface_has_a_version_in_its_path_and_its_old_names(http: httpx.Client, a_job: Make) -> None:
    made = http.post("/v1/jobs", json=a_job())
    assert made.headers["location"] == f"/v1/jobs/{made.json()['id']}"
    for path in ("/jobs", "/families", "/version", "/executors"):
        assert http.get(path).json() == http.get(f"/v1{path}").json()
    assert {path.split("/")[1] for path in http.get("/openapi.json").json()["paths"]} == {"v1", "livez", "readyz", "metrics"}


@pytest.mark.parametrize("path", ["/v1/jobs", "/jobs", "/v1/executors", "/metrics", "/livez"])
def test_head_is_answered_as_get_without_a_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_of_a_stream_ends(http: httpx.Client, claim: Claim) -> None:
    assert http.head(f"/v1/jobs/{claim.job_id}/events").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/jobs", "GET, HEAD, POST"),
        ("GET", "/v1/jobs/x/cancel", "POST"),
        ("HEAD", "/v1/plans", "POST"),
    ],
)
def test_another_method_is_told_which_there_are(http: httpx.Client, method: str, path: str, allowed: str) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("query", "fact"),
    [
        ("sate=failed", "query.sate: there is no such parameter: state is meant?"),
        ("qqqqqq=1&limit=2", "query.qqqqqq: there is no such parameter; there are cursor, label, limit"),
        ("limit=0", 'query.limit: must be at least 1 (given "0")'),
        ("limit=many", 'query.limit: must be a whole number (given "many")'),
        ("cursor=yesterday", "query.cursor: is no cursor: give the last page's next_cursor"),
        ("since=yesterday", 'query.since: must be a time, as 2024-05-31T12:00:00Z (given "yesterday")'),
        ("state=broken", "query.state: must be one of 'queued', 'blocked', 'planning'"),
    ],
)
def test_a_query_that_cannot_be_is_refused_in_our_words(http: httpx.Client, query: str, fact: str) -> None:
    for prefix in ("", "/v1"):
        answer = http.get(f"{prefix}/jobs?{query}")
        assert answer.status_code == 422
        assert answer.json()["facts"][0].startswith(fact)


def test_a_source_without_a_format_is_told_which_there_are(http: httpx.Client) -> None:
    facts = http.post("/v1/jobs", json={"source": {"path": "/a"}, "target": {"format": "nope", "path": "/b"}}).json()["facts"]
    assert facts[0].startswith("source.format: is required: one of ")
    assert "huggingface, " in facts[0]
    assert facts[1].startswith('target.format: there is no format "nope": one of ')


def test_the_client_takes_views_and_files_and_refuses_what_is_no_job(client: Client, a_job: Make, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("source: {format: huggingface, path: /in}\ntarget: {format: mindspeed-llm, path: /out}\n")
    job = client.submit(file)
    client.cancel(job.id)
    assert client.wait(job).state == "canceled"
    with pytest.raises(JobError, match="is a file, not a job"):
        client.submit(str(file))
    for nothing in ("", "  "):
        with pytest.raises(JobError, match="no job without an id"):
            client.job(nothing)
