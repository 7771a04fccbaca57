"""The client for asyncio: the same methods as the sync one's, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import TYPE_CHECKING, Any

import httpx
from tenacity import AsyncRetrying

from convsvc.client import requests
from convsvc.client.base import BaseClient
from convsvc.client.following import ENDED, Follow, Item, events, log_stream
from convsvc.client.requests import Answer, Request
from convsvc.client.waiting import Waiting, id_of

if TYPE_CHECKING:
    from datetime import datetime

    from convsvc.client.requests import AnyJob
    from convsvc.service.batch_views import BatchPage, BatchView
    from convsvc.service.cluster_views import ExecutorView, NodeView, WhoAmI
    from convsvc.service.plan_views import PlanView
    from convsvc.service.views import AttemptView, EventView, JobPage, JobView, LogLine, TaskView
    from convsvc.service.watch_views import IterationView, WatchView


class AsyncClient(BaseClient[httpx.AsyncClient]):
    """Talks to one service. Close it, or use it in an `async with`. See `Client` for what the arguments and the methods mean.

    A stream that is left before its end is closed at once only within `contextlib.aclosing`.
    """

    _kind = httpx.AsyncClient

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def submit(self, job: AnyJob, idempotency_key: str | None = None) -> JobView:
        """Queue a job. Raises JobError, TargetBusy, KeyReused, QuotaReached, ServiceError."""
        return await self._send(requests.submit(job, idempotency_key))

    async def job(self, job_id: str) -> JobView:
        """Raises NoSuchJob."""
        return await self._send(requests.job(job_id))

    async def jobs(
        self,
        *,
        state: str | None = None,
        tenant: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        name: str | None = None,
        model_type: str | None = None,
        source: str | None = None,
        target: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        """Jobs, newest first; `cursor` is the last page's `next_cursor`.

        Submitted from `since` on and before `until`; `name`, `source` and `target` are looked for within the job's; with all these
        `labels`, of which None is any value.
        """
        within = {"name": name, "model_type": model_type, "source": source, "target": target}
        wanted = {"state": state, "tenant": tenant, "since": since, "until": until, "labels": labels, **within}
        return await self._send(requests.jobs(**wanted, limit=limit, cursor=cursor))

    async def tasks(self, job_id: str, *, states: Collection[str] = (), after: int = -1, limit: int | None = None) -> list[TaskView]:
        """The current run's tasks, by number; empty until it is planned. In these states, with numbers after `after`, at most `limit`."""
        found: list[TaskView] = []
        while limit is None or len(found) < limit:
            size = requests.PAGE if limit is None else min(requests.PAGE, limit - len(found))
            page = await self._send(requests.tasks(job_id, states=states, after=found[-1].number if found else after, limit=size))
            found += page
            if len(page) < size:
                break
        return found

    async def task_counts(self, job_id: str) -> dict[str, int]:
        """How many of the current run's tasks are in each state that any is in."""
        return await self._send(requests.task_counts(job_id))

    async def attempts(self, job_id: str, *, bad: bool = False, limit: int = 100) -> list[AttemptView]:
        """The newest attempts at the job's tasks, of all its runs; with `bad` those that failed or were lost."""
        return await self._send(requests.attempts(job_id, bad=bad, limit=limit))

    async def logs(
        self,
        job_id: str,
        after: int = 0,
        limit: int = 1000,
        *,
        task: int | None = None,
        level: str | None = None,
        tail: int | None = None,
    ) -> list[LogLine]:
        """The log's lines after the line with seq `after`, at most `limit`; the last `tail` ones instead, if that is given.

        Of one task, and of `level` and those above, if these are given.
        """
        return await self._send(requests.logs(job_id, after=after, limit=limit, task=task, level=level, tail=tail))

    def follow_logs(self, job_id: str, after: int = 0, *, task: int | None = None, level: str | None = None) -> AsyncIterator[LogLine]:
        """The log's lines as they are written, until the job has ended; opened again where the connection breaks."""
        return self._follow(log_stream(job_id, after=after, task=task, level=level))

    def events(self, job_id: str, after: int = 0, *, live: bool = False) -> AsyncIterator[EventView]:
        """What happens to the job, as it happens, up to the event with which it ends; with `live` also how it is now."""
        return self._follow(events(job_id, after, live=live))

    async def wait(self, job_id: str | JobView, timeout_s: float | None = None, poll_s: float = 5) -> JobView:
        """The job once it has ended, however it did. Raises NoSuchJob, or ServiceError if it takes longer than `timeout_s`."""
        job_id, waiting = id_of(job_id), Waiting(timeout_s, poll_s)
        while (job := await self._send(requests.job(job_id, patience_s=waiting.patience_s))).state not in ENDED:
            await asyncio.sleep(waiting.pause_s(job))
        return job

    async def cancel(self, job_id: str) -> JobView:
        """Ask the job to stop; twice is the same as once. Raises NoSuchJob, IllegalTransition if it has ended otherwise."""
        return await self._send(requests.cancel(job_id))

    async def retry(self, job_id: str) -> JobView:
        """Queue a failed or canceled job again. Raises NoSuchJob, IllegalTransition, TargetBusy."""
        return await self._send(requests.retry(job_id))

    async def create_watch(self, watch: dict[str, Any]) -> WatchView:
        """Watch a training run's directory: each complete iteration becomes a job, once. The same watch again is the one that is there.

        Raises JobError, PathRefused, QuotaReached.
        """
        return await self._send(requests.create_watch(watch))

    async def watches(self) -> list[WatchView]:
        """The tenant's watches, newest first."""
        return await self._send(requests.watches())

    async def watch(self, watch_id: str) -> WatchView:
        """Raises NoSuchWatch."""
        return await self._send(requests.watch(watch_id))

    async def iterations(self, watch_id: str, *, before: int | None = None, limit: int = 1000) -> list[IterationView]:
        """What was seen of a watch's iterations, the highest first; those `before` a number. Raises NoSuchWatch."""
        return await self._send(requests.iterations(watch_id, before, limit))

    async def remove_watch(self, watch_id: str) -> WatchView:
        """Watch no longer; its jobs and what they made stay. Raises NoSuchWatch."""
        return await self._send(requests.remove_watch(watch_id))

    async def submit_batch(self, batch: dict[str, Any], idempotency_key: str | None = None) -> BatchView:
        """Queue several jobs as one: all of them, or none. A key is made as for `submit`.

        Raises JobError, TargetBusy, KeyReused, QuotaReached, NoSuchJob, ServiceError.
        """
        return await self._send(requests.submit_batch(batch, idempotency_key))

    async def batch(self, batch_id: str) -> BatchView:
        """One batch with its jobs: its progress and its report. Raises NoSuchBatch."""
        return await self._send(requests.batch(batch_id))

    async def batches(self, *, limit: int = 50, cursor: str | None = None) -> BatchPage:
        """Batches without their jobs, newest first; `cursor` is the last page's `next_cursor`."""
        return await self._send(requests.batches(limit, cursor))

    async def wait_batch(self, batch_id: str, timeout_s: float | None = None, poll_s: float = 5) -> BatchView:
        """The batch once all its jobs have ended. Raises NoSuchBatch, or ServiceError if it takes longer than `timeout_s`."""
        waiting = Waiting(timeout_s, poll_s)
        while (batch := await self._send(requests.batch(batch_id, patience_s=waiting.patience_s))).state not in ENDED:
            await asyncio.sleep(waiting.pause_s(batch))
        return batch

    async def cancel_batch(self, batch_id: str) -> BatchView:
        """Ask all of the batch's jobs that have not ended to stop. Raises NoSuchBatch."""
        return await self._send(requests.cancel_batch(batch_id))

    async def plan(self, job: AnyJob, timeout_s: float = 120) -> PlanView:
        """What the job would do and need; nothing is written. Raises what planning raises."""
        return await self._send(requests.plan(job, timeout_s))

    async def executors(self, *, gone: bool = False) -> list[ExecutorView]:
        """The executors and what they work on; with `gone` also those that ended, or went silent, within a day."""
        return await self._send(requests.executors(gone))

    async def nodes(self) -> list[NodeView]:
        """The machines on which tasks run."""
        return await self._send(requests.nodes())

    async def whoami(self) -> WhoAmI:
        """Who our token says we are: tenant, scopes, roots, limits and what counts against them."""
        return await self._send(requests.whoami())

    async def inspect(self, path: str, *, model_type: str | None = None, timeout_s: float = 120) -> dict[str, Any]:
        """What lies at a path of the service's machines, as `convsvc inspect` says it. Raises SourceError, PathRefused."""
        return await self._send(requests.inspect(path, model_type, timeout_s))

    async def families(self) -> list[dict[str, Any]]:
        """The model families the service converts."""
        return await self._send(requests.families())

    async def version(self) -> dict[str, str]:
        """The service's version."""
        return await self._send(requests.version())

    async def ready(self) -> dict[str, str]:
        """What was checked, if the service can take and run jobs. Raises NotReady, ServiceError."""
        return await self._send(requests.ready())

    async def _send(self, request: Request[Answer]) -> Answer:
        answer: Answer = await AsyncRetrying(**self._retrying(request))(self._attempt, request)
        return answer

    async def _attempt(self, request: Request[Answer]) -> Answer:
        try:
            response = await self._http.request(**request.as_httpx())
        except httpx.TransportError as failure:
            raise self._lost(failure) from failure
        return self._read(request, response)

    async def _follow(self, follow: Follow[Item]) -> AsyncIterator[Item]:
        while not follow.over:
            cleanly = False
            request = follow.request()
            response: httpx.Response = await AsyncRetrying(**self._retrying(request))(self._open, request)
            try:
                async for line in response.aiter_lines():
                    if (item := follow.line(line)) is not None:
                        yield item
                cleanly = True
            except httpx.TransportError:
                pass  # taken up again where it broke
            finally:
                await response.aclose()
            follow.closed(await self._send(requests.job(follow.job_id, patience_s=requests.PATIENCE_S)), cleanly=cleanly)
            await asyncio.sleep(follow.pause_s)

    async def _open(self, request: Request[None]) -> httpx.Response:
        try:
            response = await self._http.send(self._http.build_request(**request.as_httpx()), stream=True)
            if not response.is_success:
                await response.aread()
                raise self._refusal(request, response)
        except httpx.TransportError as failure:
            raise self._lost(failure) from failure
        return response
