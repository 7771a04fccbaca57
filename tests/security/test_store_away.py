"""Tokens while the job store does not answer: nobody waits for another's look-up, who was known a moment ago comes in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convsvc.service.access import callers
from convsvc.service.access.callers import Access
from convsvc.service.access.tenants import Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.errors import StoreAway
from convsvc.service.settings import Settings
from convsvc.service.store.database import Database

TOKENS = 8


@pytest.fixture
def access(tmp_path: Path) -> Iterator[Access]:
    """Asks the store anew about each token, each time."""
    database = Database(f"sqlite:///{tmp_path}/convsvc.db")
    database.migrate()
    Tenants(database).create("team-a", roots=[str(tmp_path)], actor="the test")
    yield Access(database, replace(Settings(), token_cache_s=-1))
    database.close()


def tokens_of(access: Access) -> list[str]:
    store = Tokens(access.audit.database)
    return [store.create("ci", "team-a", ("jobs:read",), expires_at=None, actor="the test")[0].id for _ in range(TOKENS)]


def away(*_: Any) -> Any:
    raise StoreAway("the job store does not answer")


def test_look_ups_of_different_tokens_do_not_wait_for_one_another(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tokens_of(access)
    all_at_once, find = threading.Barrier(TOKENS, timeout=20), access.tokens.find

    def found(token_id: str) -> Any:
        all_at_once.wait()  # breaks, after its time, if one of them waits for another to come back
        return find(token_id)

    monkeypatch.setattr(access.tokens, "find", found)

    async def ask() -> list[Any]:
        return await asyncio.gather(*map(access._known, ids))

    assert [token.view.id for token in asyncio.run(ask())] == ids


def test_a_token_that_was_known_a_moment_ago_is_believed_and_no_longer(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    token_id, stranger = tokens_of(access)[:2]
    known = asyncio.run(access._known(token_id))
    assert known is not None
    monkeypatch.setattr(access.tokens, "find", away)
    assert asyncio.run(access._known(token_id)) == known
    with pytest.raises(StoreAway):
        asyncio.run(access._known(stranger))
    monkeypatch.setattr(callers, "BELIEVED_S", -1)
    with pytest.raises(StoreAway):
        asyncio.run(access._known(token_id))
