"""Both clients on a bad day: broken connections, lost answers, a busy service. Nothing is done twice, nothing is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from convsvc.client import Client, waiting
from convsvc.errors import ServiceError
from convsvc.service.errors import NotReady, TooManyRequests
from convsvc.service.executor.executor import Executor
from convsvc.service.store.claims import Claims
from convsvc.service.store.jobs import Store
from tests.service.both_clients import Awaited
from tests.service.flaky_proxy import Flaky, Mishap, cut_after, drop, flaky_proxy, lose_the_answer, say

Make = Callable[..., dict[str, Any]]
BadDay = Callable[..., tuple[Any, Flaky]]
PROBLEM = "Content-Type: application/problem+json"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind: the client does not know which it is."""
    return sqlite_url


@pytest.fixture(params=["sync", "async"])
def bad_day(request: pytest.FixtureRequest, url: str) -> Iterator[BadDay]:
    """Makes a client, sync or async, that reaches the service by a proxy with the given mishaps."""
    kind = Client if request.param == "sync" else Awaited
    with ExitStack() as stack:

        def make(*mishaps: Mishap, **options: Any) -> tuple[Any, Flaky]:
            flaky = stack.enter_context(flaky_proxy(url, *mishaps))
            return stack.enter_context(kind(flaky.url, **options)), flaky

        yield make


@pytest.mark.parametrize(
    "mishap",
    [drop, lose_the_answer, cut_after(20), cut_after(20, reset=True), say("502 Bad"), say("503 Busy", "Retry-After: 0"), say("504 Late")],
    ids=["dropped", "answer lost", "answer cut", "answer reset", "502", "503", "504"],
)
def test_a_submit_whose_answer_is_lost_makes_one_job(bad_day: BadDay, mishap: Mishap, store: Store, a_job: Make) -> None:
    client, flaky = bad_day(mishap)
    job = client.submit(a_job())
    assert [each.id for each in store.jobs().jobs] == [job.id]
    keys = [seen.headers["idempotency-key"] for seen in flaky.seen]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_several_mishaps_in_a_row_make_one_job_too_and_the_next_submit_another(bad_day: BadDay, store: Store, a_job: Make) -> None:
    client, flaky = bad_day(lose_the_answer, drop, cut_after(100))
    first = client.submit(a_job())
    second = client.submit(a_job("/shared/second"))
    assert [each.id for each in store.jobs().jobs] == [second.id, first.id]
    assert len(flaky.seen) == 5


def test_events_come_once_each_and_in_order_however_often_the_stream_breaks(
    bad_day: BadDay, store: Store, claims: Claims, stand_in: Any, a_job: Make
) -> None:
    cuts = [cut_after(size, reset=size % 2 == 0) for size in (0, 1, 150, 301, 400, 503, 640, 777)]
    client, flaky = bad_day(*cuts)
    flaky.about = lambda seen: seen.path.endswith("/events")
    job = client.submit(a_job())
    Executor(claims, stand_in).run_one(stand_in())
    events = list(client.events(job.id))
    assert [event.seq for event in events] == [event.seq for event in store.events(job.id)]
    assert events[-1].data["state"] == "succeeded"
    assert not flaky.mishaps
    marks = [int(seen.headers["last-event-id"]) for seen in flaky.requests("GET", f"/v1/jobs/{job.id}/events")]
    assert marks == sorted(marks)
    assert marks[0] == 0
    assert marks[-1] > 0


def test_a_stream_that_a_proxy_ends_early_is_not_taken_for_the_end(
    bad_day: BadDay, store: Store, claims: Claims, stand_in: Any, a_job: Make
) -> None:
    client, flaky = bad_day(say("200 OK", "Content-Type: text/event-stream", body=""))
    flaky.about = lambda seen: seen.path.endswith("/events")
    job = client.submit(a_job())
    Executor(claims, stand_in).run_one(stand_in())
    assert [event.seq for event in client.events(job.id)] == [event.seq for event in store.events(job.id)]


def test_a_job_that_was_retried_is_followed_to_the_end_of_its_last_run(bad_day: BadDay, claims: Claims, stand_in: Any, a_job: Make) -> None:
    client, _ = bad_day()
    job = client.submit(a_job())
    client.cancel(job.id)
    client.retry(job.id)
    Executor(claims, stand_in).run_one(stand_in())
    states = [event.data["state"] for event in client.events(job.id) if event.kind == "state"]
    assert states[0] == "canceled"
    assert states[-1] == "succeeded"


def test_waiting_outlives_a_service_that_is_away_for_a_while(bad_day: BadDay, claims: Claims, stand_in: Any, a_job: Make) -> None:
    client, flaky = bad_day()
    job = client.submit(a_job())
    Executor(claims, stand_in).run_one(stand_in())
    looks = iter(range(100))
    flaky.about = lambda seen: next(looks) < 5
    flaky.mishaps.extend([say("200 OK", body=_as_queued(client, job.id)), *[drop] * 4])
    assert client.wait(job.id, poll_s=0.01).state == "succeeded"
    assert not flaky.mishaps


def test_waiting_for_a_service_that_is_away_ends_when_the_time_is_up(bad_day: BadDay, a_job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    client, flaky = bad_day()
    job = client.submit(a_job())
    looks = iter(range(1000))
    flaky.about = lambda seen: next(looks) > 0
    flaky.mishaps.extend([drop] * 100)
    began = time.monotonic()
    # The time runs from the first mishap: on a slow machine the look that is answered may take all of it.
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() if len(flaky.mishaps) < 100 else began)
    monkeypatch.setattr(waiting, "time", clock)
    with pytest.raises(ServiceError, match="no convsvc service answers"):
        client.wait(job.id, timeout_s=1)
    assert time.monotonic() - began < 10


def test_log_lines_come_once_each_and_in_order_however_often_the_stream_breaks(
    bad_day: BadDay, store: Store, claims: Claims, stand_in: Any, a_job: Make
) -> None:
    client, flaky = bad_day(cut_after(0), cut_after(150, reset=True), cut_after(301), cut_after(444, reset=True))
    flaky.about = lambda seen: "/logs" in seen.path
    job = client.submit(a_job())
    Executor(claims, stand_in).run_one(stand_in())
    lines = list(client.follow_logs(job.id))
    assert lines == store.logs(job.id)
    assert len(lines) > 3
    assert not flaky.mishaps


def test_asking_for_a_retry_is_not_repeated_as_it_may_have_been_heard(bad_day: BadDay, store: Store, a_job: Make) -> None:
    client, flaky = bad_day(lose_the_answer)
    flaky.about = lambda seen: seen.path.endswith("/retry")
    job = client.submit(a_job())
    client.cancel(job.id)
    with pytest.raises(ServiceError, match="no convsvc service answers"):
        client.retry(job.id)
    assert len(flaky.requests("POST", f"/v1/jobs/{job.id}/retry")) == 1
    assert store.job(job.id).state == "queued"


def test_canceling_twice_is_canceling_once_and_so_is_a_cancel_whose_answer_is_lost(bad_day: BadDay, a_job: Make) -> None:
    client, flaky = bad_day(lose_the_answer)
    flaky.about = lambda seen: seen.path.endswith("/cancel")
    job = client.submit(a_job())
    assert client.cancel(job.id).state == "canceled"
    assert client.cancel(job.id).state == "canceled"


@pytest.mark.parametrize("status", ["400 Bad", "403 No", "409 Conflict", "422 Wrong", "500 Broken", "501 What", "307 Elsewhere"])
def test_a_definite_answer_is_believed_at_once(bad_day: BadDay, status: str) -> None:
    client, flaky = bad_day(*[say(status)] * 4)
    with pytest.raises(ServiceError, match=f"answered {status[:3]}"):
        client.version()
    assert len(flaky.seen) == 1


def test_a_503_in_which_the_service_itself_says_that_it_is_final_is_believed(bad_day: BadDay) -> None:
    body = '{"type": "x", "status": 503, "detail": "no executor", "kind": "NotReady", "retryable": false}'
    client, flaky = bad_day(*[say("503 Not ready", PROBLEM, body=body)] * 4)
    with pytest.raises(NotReady, match="no executor"):
        client.version()
    assert len(flaky.seen) == 1


def test_nothing_is_tried_for_ever_and_the_pauses_grow(bad_day: BadDay) -> None:
    client, flaky = bad_day(*[drop] * 20)
    with pytest.raises(ServiceError, match="no convsvc service answers"):
        client.version()
    at = [seen.at for seen in flaky.seen]
    pauses = [later - sooner for sooner, later in pairwise(at)]
    assert len(pauses) == 3
    assert all(pause >= 0.2 * 2**number for number, pause in enumerate(pauses))


@pytest.mark.parametrize("status", ["429 Slowly", "503 Busy"])
def test_a_retry_after_is_waited_for(bad_day: BadDay, status: str) -> None:
    client, flaky = bad_day(say(status, "Retry-After: 1"))
    assert client.version()["name"] == "convsvc"
    assert len(flaky.seen) == 2
    assert flaky.seen[1].at - flaky.seen[0].at >= 1


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(bad_day: BadDay) -> None:
    body = '{"detail": "60 requests a minute", "kind": "TooManyRequests", "retryable": true, "details": {"retry_after_s": 40}}'
    client, flaky = bad_day(*[say("429 Slowly", PROBLEM, "Retry-After: 40", body=body)] * 3, retry_for_s=3)
    began = time.monotonic()
    with pytest.raises(TooManyRequests) as caught:
        client.version()
    assert (caught.value.details, len(flaky.seen)) == ({"retry_after_s": 40}, 1)
    assert time.monotonic() - began < 20


def test_what_is_not_convsvc_is_said_to_be_something_else(bad_day: BadDay) -> None:
    client, flaky = bad_day(say("200 OK", body='["a", "list"]'))
    with pytest.raises(ServiceError, match="answered, but not as convsvc does"):
        client.jobs()
    assert len(flaky.seen) == 1


def test_a_stream_of_something_else_is_said_to_be_something_else(bad_day: BadDay, a_job: Make) -> None:
    client, flaky = bad_day(say("200 OK", "Content-Type: text/event-stream", body="data: [1, 2]\n\n"))
    flaky.about = lambda seen: seen.path.endswith("/events")
    with pytest.raises(ServiceError, match="/events answered, but not as convsvc does"):
        list(client.events(client.submit(a_job()).id))


def test_an_id_is_one_part_of_the_path_whatever_is_in_it(bad_day: BadDay) -> None:
    client, flaky = bad_day()
    with pytest.raises(ServiceError):
        client.job("../readyz")
    assert flaky.seen[0].path == "/v1/jobs/..%2Freadyz"


def _as_queued(client: Any, job_id: str) -> str:
    return json.dumps(asdict(replace(client.job(job_id), state="queued")), default=str)
