"""How much one may ask: sizes, rates, quotas."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from convsvc.service.access.limits import LINGER_BYTES, Buckets, neighbourhood
from convsvc.service.app import create_app
from convsvc.service.serve import MOST_HEADER_BYTES
from convsvc.service.settings import Settings

MOST = Settings().max_body_bytes


def every_route() -> list[tuple[str, str]]:
    paths = create_app(Settings(database_url="sqlite://")).openapi()["paths"]
    return [(method.upper(), re.sub(r"{\w+}", "nope", path)) for path, operations in paths.items() for method in operations]


def in_pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536 + 1):
        yield b" " * 65536


@pytest.mark.parametrize(("method", "path"), every_route(), ids=lambda value: value)
def test_a_body_beyond_the_limit_is_refused_on_every_route(service: Any, method: str, path: str) -> None:
    answer = service.request(method, path, service.token().text, content=b" " * (MOST + 1))
    assert (answer.status_code, answer.json()["kind"]) == (413, "TooLarge")


@pytest.mark.parametrize("size", [MOST + 1, 4 * MOST])
def test_a_body_that_does_not_say_its_size_is_refused_when_it_gets_too_large(service: Any, size: int) -> None:
    answer = service.request("POST", "/jobs", service.token().text, content=in_pieces(size))
    assert (answer.status_code, answer.json()["details"]) == (413, {"most_bytes": MOST})


def test_a_stranger_cannot_send_more_than_a_client_may(service: Any) -> None:
    assert service.request("POST", "/jobs", None, content=b" " * (MOST + 1)).status_code == 413
    assert service.request("POST", "/jobs", None, content=in_pieces(MOST)).status_code in (401, 413)


def test_a_body_without_end_is_cut_off(service: Any) -> None:
    token, sent = service.token().text, 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 20 * LINGER_BYTES:
            yield b" " * 65536
            sent += 65536

    with suppress(httpx.TransportError):  # the service may cut the connection while we write
        assert service.request("POST", "/jobs", token, content=endless()).status_code == 413
    assert sent < 4 * LINGER_BYTES


def test_a_body_of_just_the_limit_is_read(service: Any) -> None:
    text = b'{"source": 1}'
    assert service.request("POST", "/jobs", service.token().text, content=text + b" " * (MOST - len(text))).status_code == 422


def test_headers_without_end_are_cut_off(service: Any) -> None:
    answer = service.request("GET", "/jobs", service.token().text, headers={"X-Long": "x" * (MOST_HEADER_BYTES // 2)})
    assert answer.status_code == 200
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X-Long: " + b"x" * (2 * MOST_HEADER_BYTES))
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert service.request("GET", "/livez").status_code == 200


def test_a_tenant_has_its_requests_a_minute_and_is_then_told_when_to_come_again(service: Any) -> None:
    service.tenants.set("team-a", requests_per_minute=5, actor="the test")
    tokens = [service.token(name=name).text for name in ("one", "two")]
    answers = [service.request("GET", "/jobs", tokens[number % 2]) for number in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
    assert answers[-1].json()["kind"] == "TooManyRequests"
    assert answers[-1].json()["retryable"]
    assert service.request("GET", "/jobs", service.token("team-b").text).status_code == 200


def test_a_tenant_without_a_limit_has_none(service: Any) -> None:
    token = service.token().text
    with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {token}"}) as client:
        assert {client.get("/formats").status_code for _ in range(200)} == {200}


def test_an_address_that_goes_on_with_bad_tokens_is_turned_away_and_a_good_one_from_there_is_not(start: Any) -> None:
    with start(refusals_per_minute=2) as service:
        service.tenants.create("team-a", actor="the test")
        good = service.token()
        assert service.request("GET", "/jobs", good.text).status_code == 200
        new = service.token()  # not seen by this process before the address is turned away: behind a proxy, all come from one
        answers = [service.request("GET", "/jobs", f"cvs_{number:012x}_" + 64 * "0") for number in range(14)]
        assert [answer.status_code for answer in answers[:10]] == [401] * 10
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert service.request("GET", "/jobs", new.text).status_code == 200
        guessed = new.text[:-64] + 64 * "0"
        assert service.request("GET", "/jobs", guessed).status_code == 429, "a token's id alone opens nothing"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert service.request("GET", "/jobs", good.text).status_code == 200
        assert service.request("GET", "/jobs").status_code == 401


def test_a_queue_that_is_full_says_when_to_come_again(service: Any) -> None:
    service.tenants.set("team-a", most_queued_jobs=1, actor="the test")
    token = service.token()
    service.submitted(token)
    answer = service.request("POST", "/jobs", token.text, json=service.job(target="second"))
    assert (answer.status_code, answer.json()["kind"]) == (429, "QuotaReached")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_bucket_fills_as_time_goes_by() -> None:
    now = [0.0]
    buckets = Buckets(clock=lambda: now[0])
    assert [buckets.take("a", 60, burst=2) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert buckets.take("b", 60, burst=2) == 0.0
    now[0] = 0.5
    assert (buckets.peek("a", 60), buckets.take("a", 60, burst=2)) == (0.5, 0.5)
    now[0] = 1.0
    assert (buckets.peek("a", 60), buckets.take("a", 60, burst=2)) == (0.0, 0.0)
    now[0] = 1000.0
    assert [buckets.take("a", 60, burst=2) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_buckets_are_bounded_and_forget_who_was_not_heard_of_for_longest() -> None:
    buckets = Buckets(most_keys=2, clock=lambda: 0.0)
    for key in ("a", "b", "a", "c"):
        buckets.take(key, 1)
    assert buckets.peek("a", 1) > 0
    assert buckets.peek("b", 1) == 0


def test_an_ipv6_customer_cannot_come_from_a_new_address_each_time() -> None:
    assert neighbourhood("2001:db8:1:2:3:4:5:6") == neighbourhood("2001:db8:1:2::ffff") != neighbourhood("2001:db8:1:3::")
