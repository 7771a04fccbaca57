"""Two hundred clients at once post two thousand jobs to a real `convsvc serve`: none fails, none is made twice, memory stays where it was.

How fast it is: `python -m benchmarks.posting`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.posting import keys_of, post_all, resident_bytes, serving
from tests.service import postgres_server

CLIENTS, JOBS = 200, 2000
TIMES_RACED = 3  # how often a key comes at the same moment
GROWTH_BYTES = 30 << 20


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state/convsvc.db"
        return
    binaries = postgres_server.binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server on this machine")
    with postgres_server.cluster(binaries) as server:
        yield server.new()


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[tuple[str, int, Path]]:
    """`convsvc serve --no-executor`: its URL, its process, its log."""
    log = tmp_path / "serve.log"
    with serving(database_url, log) as (url, pid):
        yield url, pid, log


def all_jobs(url: str) -> list[str]:
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = httpx.get(f"{url}/jobs", params={"limit": 500, **({"cursor": cursor} if cursor else {})}, timeout=30).json()
        ids += [each["id"] for each in page["jobs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return ids


def test_two_hundred_clients_post_two_thousand_jobs(service: tuple[str, int, Path]) -> None:
    url, pid, log = service
    warm = asyncio.run(post_all(url, keys_of("warm", CLIENTS, CLIENTS)))
    before = resident_bytes(pid)
    posted = asyncio.run(post_all(url, keys_of("job", JOBS, CLIENTS)))
    raced = asyncio.run(post_all(url, keys_of("raced", CLIENTS, CLIENTS), TIMES_RACED))
    again = asyncio.run(post_all(url, [share[::5] for share in keys_of("job", JOBS, CLIENTS)]))
    growth = resident_bytes(pid) - before
    assert (warm.statuses, posted.statuses) == ({201: CLIENTS}, {201: JOBS})
    assert raced.statuses == {201: CLIENTS, 200: CLIENTS * (TIMES_RACED - 1)}
    assert again.statuses == {200: JOBS // 5}
    assert all(len(ids) == 1 for tally in (posted, raced) for ids in tally.ids.values())
    assert all(posted.ids[key] == ids for key, ids in again.ids.items())
    stored = all_jobs(url)
    assert len(stored) == len(set(stored)) == CLIENTS + JOBS + CLIENTS
    assert "locked" not in log.read_text()
    assert growth < GROWTH_BYTES
