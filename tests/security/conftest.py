"""A real server on a socket with a real SQLite file, tenants and tokens; nothing stands in for what keeps people out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from convsvc.service.access.tenants import Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.app import create_app
from convsvc.service.serve import http_config
from convsvc.service.settings import Settings
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from tests.service.listening import listening
from tests.service.planned import planned

ACTOR = "the test"


@dataclass(frozen=True)
class Token:
    id: str
    text: str


@dataclass(frozen=True)
class Service:
    """A running service, and its job store from behind. `team-a` and `team-b` have a directory each."""

    url: str
    database: Database
    shared: Path

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.database)

    @property
    def tenants(self) -> Tenants:
        return Tenants(self.database)

    @property
    def store(self) -> Store:
        return Store(self.database)

    def token(self, tenant: str = "team-a", *scopes: str, name: str = "ci", expires_at: datetime | None = None) -> Token:
        made, text = self.tokens.create(name, tenant, scopes or ("jobs:read", "jobs:write"), expires_at=expires_at, actor=ACTOR)
        return Token(made.id, text)

    def expired_token(self, tenant: str = "team-a") -> Token:
        token = self.token(tenant, expires_at=datetime.now(timezone.utc) + timedelta(days=1))
        with self.database.writing() as session:
            past = (datetime.now(timezone.utc) - timedelta(seconds=1)).replace(tzinfo=None).isoformat(sep=" ")
            session.connection().exec_driver_sql("UPDATE tokens SET expires_at = ? WHERE id = ?", (past, token.id))
        return token

    def request(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **more.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=20, **more)

    def job(self, tenant: str = "team-a", target: str = "out", **more: Any) -> dict[str, Any]:
        source = {"format": "huggingface", "path": str(self.shared / tenant / "hf")}
        return {"source": source, "target": {"format": "mindspeed-llm", "path": str(self.shared / tenant / target)}, **more}

    def submitted(self, token: Token, tenant: str = "team-a", target: str = "out") -> str:
        answer = self.request("POST", "/jobs", token.text, json=self.job(tenant, target))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


Start = Callable[..., Any]


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables and nothing in them: making them takes longer than most tests."""
    path = tmp_path_factory.mktemp("tables") / "convsvc.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
def start(tmp_path: Path, tables: Path) -> Iterator[Start]:
    """Starts a service with settings of one's own. What is known of a token is believed for a moment only, so that tests are quick."""
    url = f"sqlite:///{tmp_path}/state/convsvc.db"
    (tmp_path / "state").mkdir()
    shutil.copy(tables, tmp_path / "state" / "convsvc.db")
    database = Database(url)

    @contextmanager
    def started(**settings: Any) -> Iterator[Service]:
        app = create_app(Settings(database_url=url, **{"token_cache_s": 0.05, "events_poll_s": 0.02, **settings}), plan=planned)
        with listening(http_config(app, "127.0.0.1", 0)) as address:
            yield Service(address, database, tmp_path / "shared")

    yield started
    database.close()


@pytest.fixture
def service(start: Start) -> Iterator[Service]:
    """A service with two tenants."""
    with start() as running:
        for tenant in ("team-a", "team-b"):
            (running.shared / tenant).mkdir(parents=True)
            running.tenants.create(tenant, roots=[str(running.shared / tenant)], actor=ACTOR)
        yield running
