"""All who follow a job are served by one look at the job store, and hear of every change."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from convsvc.service.following import News
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job


class Jobs:
    """A job store's answers: what each job's stamp is now, and what was asked."""

    def __init__(self) -> None:
        self.now: dict[str, Any] = {"a": 1, "b": 1}
        self.asked: list[list[str]] = []
        self.is_away = False

    def __call__(self, job_ids: Sequence[str]) -> dict[str, Any]:
        self.asked.append(list(job_ids))
        if self.is_away:
            raise OSError("the store is away")
        return {job: self.now[job] for job in job_ids if job in self.now}


def test_a_hundred_followers_of_two_jobs_are_one_look_and_each_hears_of_its_own_job() -> None:
    async def follow() -> None:
        jobs = Jobs()
        news = News(jobs, 0.001)
        heard: list[str] = []

        async def one(job_id: str) -> None:
            with news.of(job_id) as follower:
                assert await follower.changed(60), "the first look"
                if await follower.changed(60):
                    heard.append(job_id)

        followers = [asyncio.create_task(one(job_id)) for job_id in ["a", "b"] * 50]
        while len(jobs.asked) < 5:
            await asyncio.sleep(0.001)
        assert jobs.asked[-1] == ["a", "b"]
        assert heard == []
        jobs.now["a"] = 2
        await asyncio.gather(*followers[::2])
        assert heard == ["a"] * 50
        jobs.now["b"] = 2
        await asyncio.gather(*followers)
        assert heard == ["a"] * 50 + ["b"] * 50

    asyncio.run(follow())


def test_nobody_is_asked_once_nobody_follows() -> None:
    async def follow() -> None:
        jobs = Jobs()
        news = News(jobs, 0.001)
        for _ in range(2):
            with news.of("a") as follower:
                assert await follower.changed(60)
            while news._looking is not None and not news._looking.done():
                await asyncio.sleep(0.001)
            asked = len(jobs.asked)
            await asyncio.sleep(0.01)
            assert len(jobs.asked) == asked

    asyncio.run(follow())


def test_a_store_that_was_away_is_followed_on_and_a_job_that_is_gone_is_news() -> None:
    async def follow() -> None:
        jobs = Jobs()
        with News(jobs, 0.001).of("a") as follower:
            assert await follower.changed(60)
            jobs.is_away = True
            assert not await follower.changed(0.02)
            jobs.now["a"], jobs.is_away = 2, False
            assert await follower.changed(60)
            del jobs.now["a"]
            assert await follower.changed(60)

    asyncio.run(follow())


def until(ask: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    counts = {"glance": 0, "stamps": 0}
    for name in counts:
        original = getattr(Store, name)

        def count(self: Store, *args: Any, name: str = name, original: Any = original) -> Any:
            counts[name] += 1
            return original(self, *args)

        monkeypatch.setattr(Store, name, count)
    return counts


def test_idle_streams_do_not_read_the_job_and_hear_its_next_event(
    counted: dict[str, int], url: str, store: Store, claims: Claims, a_job: Callable[..., dict[str, Any]]
) -> None:
    job = store.submit(parse_job(a_job()))[0]
    streams, opened, heard = 8, threading.Barrier(9), []

    def follow() -> None:
        with httpx.stream("GET", f"{url}/jobs/{job.id}/events", timeout=60) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if line == "event: submitted")
            opened.wait(60)
            heard.append(next(line for line in lines if '"planning"' in line))

    threads = [threading.Thread(target=follow) for _ in range(streams)]
    for thread in threads:
        thread.start()
    opened.wait(60)
    until(lambda: counted["stamps"] >= 5)
    looks, reads = counted["stamps"], counted["glance"]
    until(lambda: counted["stamps"] >= looks + 20)
    assert counted["glance"] - reads <= 2 * streams, "only what the first look had found new"
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(0, "layer 0", 1)])
    for thread in threads:
        thread.join(60)
    assert len(heard) == streams
