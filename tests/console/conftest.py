"""A browser's session without a browser: cookies are kept, forms bear their word. The service is the real one, as in tests/security."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from convsvc.service.access.identity import Caller
from convsvc.service.app import create_app
from convsvc.service.serve import http_config
from convsvc.service.settings import Settings
from convsvc.service.store.database import Database
from tests.security.conftest import ACTOR, Service, Token, tables
from tests.service.listening import listening
from tests.service.planned import planned

__all__ = ["Console", "Service", "Start", "Token", "Visitor", "tables"]
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Console(Service):
    """The service, and people who come to its console."""

    def job_of(self, tenant: str = "team-a") -> str:
        """A queued job of that tenant's, with a target that no other has."""
        return self.submitted(self.token(tenant), tenant, f"out-{next(NUMBERS)}")

    def caller(self, tenant: str = "team-a") -> Caller:
        return Caller("somebody", tenant, frozenset({"jobs:read", "jobs:write"}), (str(self.shared / tenant),))

    @contextmanager
    def visitor(self, token: str | None = None) -> Iterator[Visitor]:
        with httpx.Client(base_url=self.url, timeout=20, headers={"Accept": "text/html"}) as http:
            visitor = Visitor(http)
            yield visitor.logged_in(token) if token else visitor


@dataclass(frozen=True)
class Visitor:
    """Somebody with a browser."""

    http: httpx.Client

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(f"/ui{path}", **more)

    def csrf(self) -> str:
        """The word that the console's pages gave to their forms: any page has one, also one that says what went wrong."""
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get("/login", follow_redirects=True).text)
        assert found, "no form on the page"
        return found[1]

    def csrf_of_session(self) -> str:
        assert "convsvc_session" in self.http.cookies
        return self.csrf()

    def post(self, path: str, fields: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        """Sends a form as the page that has it would."""
        return self.http.post(f"/ui{path}", data={"csrf": self.csrf(), **(fields or {})}, headers=headers)

    def logged_in(self, token: str) -> Visitor:
        answer = self.post("/login", {"token": token})
        assert answer.status_code == 303, answer.text
        return self


Start = Callable[..., Any]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tables: Path) -> Start:
    """Starts a service with two tenants, a directory each, on SQLite or the database of `url`. What is known of a token is believed for a
    moment only."""

    @contextmanager
    def started(*, tenants: bool = True, plan: Any = planned, url: str = "", **settings: Any) -> Iterator[Console]:
        home = tmp_path_factory.mktemp("service")
        if not url:
            shutil.copy(tables, home / "convsvc.db")
            url = f"sqlite:///{home}/convsvc.db"
        database = Database(url)
        app = create_app(Settings(database_url=url, **{"token_cache_s": 0.05, "events_poll_s": 0.02, **settings}), plan=plan)
        with listening(http_config(app, "127.0.0.1", 0)) as address:
            running = Console(address, database, home / "shared")
            for tenant in ("team-a", "team-b") if tenants else ():
                (running.shared / tenant).mkdir(parents=True)
                running.tenants.create(tenant, roots=[str(running.shared / tenant)], actor=ACTOR)
            if tenants:
                running.token()  # from now on every request needs one
            yield running
        database.close()

    return started


@pytest.fixture(scope="module")
def service(start: Start) -> Iterator[Console]:
    """One service for all tests of a file: to start one takes longer than most of them."""
    with start() as running:
        yield running


@pytest.fixture
def visit(service: Console) -> Iterator[Callable[..., Visitor]]:
    """Makes visitors, with cookies of their own."""
    opened = []

    def make(token: str | None = None) -> Visitor:
        opened.append(service.visitor(token))
        return opened[-1].__enter__()

    yield make
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture
def token(service: Console) -> Token:
    return service.token("team-a")


@pytest.fixture
def visitor(visit: Callable[..., Visitor], token: Token) -> Visitor:
    """One of team-a, who has entered his token."""
    return visit(token.text)
