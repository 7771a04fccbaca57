"""The one exception: without a token made, programs on the service's own machine come in, and nothing else does."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from convsvc.service.access.tenants import Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.app import create_app
from convsvc.service.settings import Settings
from convsvc.service.store.database import Database


@pytest.fixture
def opened(start: Any) -> Iterator[Any]:
    """A service for which no token was made."""
    with start() as running:
        yield running


def test_a_program_on_this_machine_needs_no_token(opened: Any) -> None:
    assert opened.request("GET", "/jobs").status_code == 200
    assert opened.request("POST", "/jobs", json=opened.job()).status_code == 201


def test_a_token_left_over_from_another_service_does_no_harm(opened: Any) -> None:
    assert opened.request("GET", "/jobs", "cvs_0123456789ab_" + 64 * "0").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", ""]
)
def test_a_name_that_was_pointed_here_is_refused(opened: Any, host: str) -> None:
    answer = opened.request("GET", "/jobs", headers={"Host": host})
    assert (answer.status_code, answer.json()["kind"]) == (403, "Forbidden")
    assert "jobs" not in answer.json()["details"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8765", "127.1.2.3"])
def test_names_of_loopback_are_taken(opened: Any, host: str) -> None:
    assert opened.request("GET", "/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Content-Type": "text/plain"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/jobs"), ("GET", "/jobs"), ("POST", "/plans"), ("GET", "/openapi.json")])
def test_a_web_page_of_another_site_is_refused(opened: Any, method: str, path: str, headers: dict[str, str]) -> None:
    body = {"json": opened.job()} if method == "POST" else {}
    assert opened.request(method, path, headers=headers, **body).status_code == 403
    assert opened.store.jobs().jobs == []


def test_a_page_of_this_service_itself_may_ask(opened: Any) -> None:
    headers = {"Origin": opened.url, "Sec-Fetch-Site": "same-origin"}
    assert opened.request("GET", "/jobs", headers=headers).status_code == 200
    assert opened.request("GET", "/openapi.json", headers={"Sec-Fetch-Site": "none"}).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
def test_what_came_through_a_proxy_did_not_come_from_here(opened: Any, header: str) -> None:
    answer = opened.request("GET", "/jobs", headers={header: "127.0.0.1"})
    assert answer.status_code == 403
    assert "proxy" in answer.json()["detail"]


def test_readyz_is_as_silent_to_a_web_page_as_to_a_stranger(opened: Any) -> None:
    assert opened.request("GET", "/readyz").json()["facts"] == ["executor: no executor is running"]
    assert opened.request("GET", "/readyz", headers={"Host": "evil.example"}).json()["facts"] == []


@pytest.mark.parametrize("server", ["10.1.2.3", "[2001:db8::7]", "service.example"])
def test_a_connection_to_another_address_of_this_machine_needs_a_token(tmp_path: Path, server: str) -> None:
    async def ask() -> int:
        app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/jobs.db"))
        app.state.context.store.database.migrate()
        # The transport tells the application the URL's host as the address that the connection came in on, as uvicorn does.
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{server}") as client:
            status = (await client.get("/jobs", headers={"Host": "localhost"})).status_code
        app.state.context.store.database.close()
        return status

    assert asyncio.run(ask()) == 401


def test_the_first_token_closes_the_door_within_seconds_and_removing_it_does_not_open_it(opened: Any) -> None:
    assert opened.request("GET", "/jobs").status_code == 200
    opened.tenants.create("team-a", actor="the test")
    token = opened.token()
    began = time.monotonic()
    while opened.request("GET", "/jobs").status_code != 401:
        assert time.monotonic() - began < 20
    assert opened.request("GET", "/jobs", token.text).status_code == 200
    opened.tenants.remove("team-a", actor="the test")
    time.sleep(0.2)  # longer than tokens are believed
    assert [opened.request("GET", "/jobs", text).status_code for text in (None, token.text)] == [401, 401]


def test_a_revoked_token_is_a_token_all_the_same(start: Any) -> None:
    with start() as service:
        service.tenants.create("team-a", actor="the test")
        service.tokens.revoke(service.token().id, actor="the test")
        assert service.request("GET", "/jobs").status_code == 401


@contextmanager
def command(tmp_path: Path, *args: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    line = [sys.executable, "-m", "convsvc.cli.main", "serve", "--no-executor", "--port", "0", *args]
    line += ["--database-url", f"sqlite:///{tmp_path}/jobs.db"]
    log = tmp_path / "serve.log"
    with log.open("w") as errors, subprocess.Popen(line, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        try:
            yield process, log
        finally:
            process.terminate()
            process.wait(30)


def made_token(tmp_path: Path) -> str:
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    database.migrate()
    Tenants(database).create("team-a", roots=["/shared"], actor="the test")
    token = Tokens(database).create("ci", "team-a", ["jobs:read"], expires_at=None, actor="the test")[1]
    database.close()
    return token


def ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    return found[0]


def test_serve_says_at_its_start_that_anybody_on_this_machine_comes_in(tmp_path: Path) -> None:
    with command(tmp_path) as (process, log):
        assert httpx.get(f"{ready(process)}/jobs").status_code == 200
        assert "anybody on this machine can read and write files as" in log.read_text()


def test_serve_does_not_warn_and_is_closed_where_a_token_was_made(tmp_path: Path) -> None:
    made_token(tmp_path)
    with command(tmp_path) as (process, log):
        assert httpx.get(f"{ready(process)}/jobs").status_code == 401
        assert "anybody" not in log.read_text()


def test_serve_listens_beyond_loopback_only_once_a_token_was_made(tmp_path: Path) -> None:
    with command(tmp_path, "--host", "0.0.0.0") as (process, log):
        assert process.wait(30) == 2
        assert "can be reached from other machines" in log.read_text()
        assert "convsvc token create" in log.read_text()
    token = made_token(tmp_path)
    with command(tmp_path, "--host", "0.0.0.0") as (process, log):
        url = ready(process).replace("0.0.0.0", "127.0.0.1")
        statuses = [httpx.get(f"{url}/jobs", headers=headers).status_code for headers in ({}, {"Authorization": f"Bearer {token}"})]
        assert statuses == [401, 200]
