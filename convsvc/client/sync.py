"""The client for code that waits."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import httpx
from tenacity import Retrying

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


class Client(BaseClient[httpx.Client]):
    """Talks to one service; what it is made with says `BaseClient`. Thread-safe; close it, or use it in a `with`."""

    _kind = httpx.Client

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, job: AnyJob, idempotency_key: str | None = None) -> JobView:
        """Queue a job. Without a key one is made, so that sending it again after a lost answer makes no second job.

        Raises JobError, TargetBusy, KeyReused, QuotaReached, ServiceError.
        """
        return self._send(requests.submit(job, idempotency_key))

    def job(self, job_id: str) -> JobView:
        """Raises NoSuchJob."""
        return self._send(requests.job(job_id))

    def jobs(
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
        return self._send(requests.jobs(**wanted, limit=limit, cursor=cursor))

    def tasks(self, job_id: str, *, states: Collection[str] = (), after: int = -1, limit: int | None = None) -> list[TaskView]:
        """The current run's tasks, by number; empty until it is planned. In these states, with numbers after `after`, at most `limit`."""
        found: list[TaskView] = []
        while limit is None or len(found) < limit:
            size = requests.PAGE if limit is None else min(requests.PAGE, limit - len(found))
            page = self._send(requests.tasks(job_id, states=states, after=found[-1].number if found else after, limit=size))
            found += page
            if len(page) < size:
                break
        return found

    def task_counts(self, job_id: str) -> dict[str, int]:
        """How many of the current run's tasks are in each state that any is in."""
        return self._send(requests.task_counts(job_id))

    def attempts(self, job_id: str, *, bad: bool = False, limit: int = 100) -> list[AttemptView]:
        """The newest attempts at the job's tasks, of all its runs; with `bad` those that failed or were lost."""
        return self._send(requests.attempts(job_id, bad=bad, limit=limit))

    def logs(
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
        return self._send(requests.logs(job_id, after=after, limit=limit, task=task, level=level, tail=tail))

    def follow_logs(self, job_id: str, after: int = 0, *, task: int | None = None, level: str | None = None) -> Iterator[LogLine]:
        """The log's lines as they are written, until the job has ended; opened again where the connection breaks."""
        return self._follow(log_stream(job_id, after=after, task=task, level=level))

    def events(self, job_id: str, after: int = 0, *, live: bool = False) -> Iterator[EventView]:
        """What happens to the job, as it happens, up to the event with which it ends; opened again where the connection breaks.

        With `live` also how it is now: `progress` and `waits`, which the service tells when they change and does not keep.
        """
        return self._follow(events(job_id, after, live=live))

    def wait(self, job_id: str | JobView, timeout_s: float | None = None, poll_s: float = 5) -> JobView:
        """The job once it has ended, however it did. Looks often at first, every `poll_s` later.

        Raises NoSuchJob, or ServiceError if it takes longer than `timeout_s`: the job goes on.
        """
        job_id, waiting = id_of(job_id), Waiting(timeout_s, poll_s)
        while (job := self._send(requests.job(job_id, patience_s=waiting.patience_s))).state not in ENDED:
            time.sleep(waiting.pause_s(job))
        return job

    def cancel(self, job_id: str) -> JobView:
        """Ask the job to stop; twice is the same as once. Raises NoSuchJob, IllegalTransition if it has ended otherwise."""
        return self._send(requests.cancel(job_id))

    def retry(self, job_id: str) -> JobView:
        """Queue a failed or canceled job again. Raises NoSuchJob, IllegalTransition, TargetBusy."""
        return self._send(requests.retry(job_id))

    def create_watch(self, watch: dict[str, Any]) -> WatchView:
        """Watch a training run's directory: each complete iteration becomes a job, once. The same watch again is the one that is there.

        Raises JobError, PathRefused, QuotaReached.
        """
        return self._send(requests.create_watch(watch))

    def watches(self) -> list[WatchView]:
        """The tenant's watches, newest first."""
        return self._send(requests.watches())

    def watch(self, watch_id: str) -> WatchView:
        """Raises NoSuchWatch."""
        return self._send(requests.watch(watch_id))

    def iterations(self, watch_id: str, *, before: int | None = None, limit: int = 1000) -> list[IterationView]:
        """What was seen of a watch's iterations, the highest first; those `before` a number. Raises NoSuchWatch."""
        return self._send(requests.iterations(watch_id, before, limit))

    def remove_watch(self, watch_id: str) -> WatchView:
        """Watch no longer; its jobs and what they made stay. Raises NoSuchWatch."""
        return self._send(requests.remove_watch(watch_id))

    def submit_batch(self, batch: dict[str, Any], idempotency_key: str | None = None) -> BatchView:
        """Queue several jobs as one: all of them, or none. A key is made as for `submit`.

        Raises JobError, TargetBusy, KeyReused, QuotaReached, NoSuchJob, ServiceError.
        """
        return self._send(requests.submit_batch(batch, idempotency_key))

    def batch(self, batch_id: str) -> BatchView:
        """One batch with its jobs: its progress and its report. Raises NoSuchBatch."""
        return self._send(requests.batch(batch_id))

    def batches(self, *, limit: int = 50, cursor: str | None = None) -> BatchPage:
        """Batches without their jobs, newest first; `cursor` is the last page's `next_cursor`."""
        return self._send(requests.batches(limit, cursor))

    def wait_batch(self, batch_id: str, timeout_s: float | None = None, poll_s: float = 5) -> BatchView:
        """The batch once all its jobs have ended. Raises NoSuchBatch, or ServiceError if it takes longer than `timeout_s`."""
        waiting = Waiting(timeout_s, poll_s)
        while (batch := self._send(requests.batch(batch_id, patience_s=waiting.patience_s))).state not in ENDED:
            time.sleep(waiting.pause_s(batch))
        return batch

    def cancel_batch(self, batch_id: str) -> BatchView:
        """Ask all of the batch's jobs that have not ended to stop. Raises NoSuchBatch."""
        return self._send(requests.cancel_batch(batch_id))

    def plan(self, job: AnyJob, timeout_s: float = 120) -> PlanView:
        """What the job would do and need; nothing is written. Raises what planning raises."""
        return self._send(requests.plan(job, timeout_s))

    def executors(self, *, gone: bool = False) -> list[ExecutorView]:
        """The executors and what they work on; with `gone` also those that ended, or went silent, within a day."""
        return self._send(requests.executors(gone))

    def nodes(self) -> list[NodeView]:
        """The machines on which tasks run."""
        return self._send(requests.nodes())

    def whoami(self) -> WhoAmI:
        """Who our token says we are: tenant, scopes, roots, limits and what counts against them."""
        return self._send(requests.whoami())

    def inspect(self, path: str, *, model_type: str | None = None, timeout_s: float = 120) -> dict[str, Any]:
        """What lies at a path of the service's machines, as `convsvc inspect` says it. Raises SourceError, PathRefused."""
        return self._send(requests.inspect(path, model_type, timeout_s))

    def families(self) -> list[dict[str, Any]]:
        """The model families the service converts."""
        return self._send(requests.families())

    def version(self) -> dict[str, str]:
        """The service's version."""
        return self._send(requests.version())

    def ready(self) -> dict[str, str]:
        """What was checked, if the service can take and run jobs. Raises NotReady, ServiceError."""
        return self._send(requests.ready())

    def _send(self, request: Request[Answer]) -> Answer:
        answer: Answer = Retrying(**self._retrying(request))(self._attempt, request)
        return answer

    def _attempt(self, request: Request[Answer]) -> Answer:
        try:
            response = self._http.request(**request.as_httpx())
        except httpx.TransportError as failure:
            raise self._lost(failure) from failure
        return self._read(request, response)

    def _follow(self, follow: Follow[Item]) -> Iterator[Item]:
        while not follow.over:
            cleanly = False
            request = follow.request()
            response: httpx.Response = Retrying(**self._retrying(request))(self._open, request)
            try:
                for line in response.iter_lines():
                    if (item := follow.line(line)) is not None:
                        yield item
                cleanly = True
            except httpx.TransportError:
                pass  # taken up again where it broke
            finally:
                response.close()
            follow.closed(self._send(requests.job(follow.job_id, patience_s=requests.PATIENCE_S)), cleanly=cleanly)
            time.sleep(follow.pause_s)

    def _open(self, request: Request[None]) -> httpx.Response:
        try:
            response = self._http.send(self._http.build_request(**request.as_httpx()), stream=True)
            if not response.is_success:
                response.read()
                raise self._refusal(request, response)
        except httpx.TransportError as failure:
            raise self._lost(failure) from failure
        return response
