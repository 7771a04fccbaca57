"""One look at the job store for all who follow jobs: five hundred idle streams cost one small query every quarter of a second.

    with news.of(job_id) as job:
        ... read the store, tell ...
        if await job.changed(within_s=3): ... read again

Whether anything is new is asked of the jobs' own rows: their counters of events and lines, state, and what is told of their pace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

_log = logging.getLogger(__name__)

Stamps = Callable[[Sequence[str]], Mapping[str, Any]]


@dataclass(slots=True)
class _Topic:
    """A job that is followed. `version` grows with each change that was seen, of which the first look is one."""

    followers: int = 0
    version: int = 0
    stamp: Any = field(default_factory=object)
    event: asyncio.Event = field(default_factory=asyncio.Event)


class Follower:
    """Who follows one job. Seen from here, nothing has changed until the next look after the last one."""

    def __init__(self, topic: _Topic) -> None:
        self._topic, self._known = topic, topic.version

    async def changed(self, within_s: float) -> bool:
        """Waits until the job has changed since this last said so, but not longer than that; whether it has."""
        topic = self._topic
        if topic.version == self._known:
            try:
                await asyncio.wait_for(topic.event.wait(), within_s)
            except asyncio.TimeoutError:
                return False
        self._known = topic.version
        return True


class News:
    """Looks every `poll_s` seconds, while anybody follows a job. `stamps` answers, in a thread, what differs once a job has news."""

    def __init__(self, stamps: Stamps, poll_s: float) -> None:
        self._stamps, self._poll_s = stamps, poll_s
        self._topics: dict[str, _Topic] = {}
        self._looking: asyncio.Task[None] | None = None

    @contextmanager
    def of(self, job_id: str) -> Iterator[Follower]:
        """Follow a job, in the event loop, for as long as the block lasts."""
        topic = self._topics.setdefault(job_id, _Topic())
        topic.followers += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        try:
            yield Follower(topic)
        finally:
            topic.followers -= 1
            if not topic.followers:
                self._topics.pop(job_id, None)

    async def _look(self) -> None:
        while self._topics:
            followed = dict(self._topics)
            try:
                found = await run_in_threadpool(self._stamps, list(followed))
            except Exception as error:  # the store is away: who follows hears nothing new until it is back
                _log.debug("no news of the jobs that are followed: %s", error)
            else:
                for job_id, topic in followed.items():
                    _tell(topic, found.get(job_id))
            await asyncio.sleep(self._poll_s)


def _tell(topic: _Topic, stamp: Any) -> None:
    if stamp != topic.stamp:
        topic.stamp, topic.version = stamp, topic.version + 1
        event, topic.event = topic.event, asyncio.Event()
        event.set()
