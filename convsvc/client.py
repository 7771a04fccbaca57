"""The typed client of the service. It loads neither ray, torch, fastapi nor sqlalchemy.

    client = Client("http://127.0.0.1:8765")
    job = client.submit({"source": {...}, "target": {...}})
    client.wait(job.id)

A request that may safely be sent again is, when the connection fails or the service answers 502, 503 or 504; `submit` is made
safe by an Idempotency-Key. Every problem the service answers becomes the error it was made from.
"""

from __future__ import annotations

import json
import ssl
import time
import uuid
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

import convsvc.service.errors  # noqa: F401  (its kinds are made again from problems)
from convsvc.errors import ConvsvcError, ServiceError, error_from_dict
from convsvc.service.views import EventView, JobPage, JobView, LogLine, Progress, TaskView

if TYPE_CHECKING:
    from convsvc.spec import Job

__all__ = ["Client", "EventView", "JobPage", "JobView", "LogLine", "Progress", "TaskView"]

DEFAULT_URL = "http://127.0.0.1:8765"
ATTEMPTS = 4
AGAIN = frozenset({502, 503, 504})
ENDED = frozenset({"succeeded", "failed", "canceled"})
STREAM_SILENCE_S = 60.0  # the service pings every 15 s; a stream silent for longer is dead and is opened again

View = TypeVar("View")


class Client:
    """Talks to one service. Thread-safe; close it, or use it in a `with`. `timeout_s` is for one request."""

    def __init__(self, base_url: str = DEFAULT_URL, token: str | None = None, timeout_s: float = 30) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.base_url = base_url.rstrip("/")
        # Loading the certificates that https needs takes 0.13 s. A context without any refuses https, should a proxy lead there.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self.base_url.startswith("http://") else True
        self._http = httpx.Client(base_url=self.base_url, headers=headers, timeout=timeout_s, verify=verify)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, job: Job | dict[str, Any] | str, idempotency_key: str | None = None) -> JobView:
        """Queue a job. Without a key one is made, so that sending it again after a lost answer makes no second job.

        Raises JobError, TargetBusy, KeyReused, ServiceError.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return _job(self._send("POST", "/jobs", json=_as_json(job), headers=headers))

    def job(self, job_id: str) -> JobView:
        """Raises NoSuchJob."""
        return _job(self._send("GET", f"/jobs/{job_id}"))

    def jobs(self, *, state: str | None = None, limit: int = 50, cursor: str | None = None) -> JobPage:
        """Jobs, newest first; `cursor` is the last page's `next_cursor`."""
        given = {"state": state, "limit": limit, "cursor": cursor}
        page = self._send("GET", "/jobs", params={name: value for name, value in given.items() if value is not None})
        return JobPage([_job(item) for item in page["jobs"]], page["next_cursor"])

    def tasks(self, job_id: str) -> list[TaskView]:
        """The current run's tasks; empty until it is planned."""
        return [_view(TaskView, item) for item in self._send("GET", f"/jobs/{job_id}/tasks")]

    def logs(self, job_id: str, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """The log's lines after the line with seq `after`, at most `limit`."""
        return [_view(LogLine, item) for item in self._send("GET", f"/jobs/{job_id}/logs", params={"after": after, "limit": limit})]

    def events(self, job_id: str, after: int = 0) -> Iterator[EventView]:
        """What happens to the job, as it happens, up to the event with which it ends; opened again where the connection breaks."""
        ended, failures = False, 0
        while not ended:
            try:
                for event in self._stream(job_id, after):
                    after, failures = event.seq, 0
                    ended = event.kind == "state" and event.data.get("state") in ENDED
                    yield event
                ended = ended or self.job(job_id).state in ENDED
            except httpx.TransportError as error:
                failures += 1
                if failures >= ATTEMPTS:
                    raise self._unreachable(error) from error
                time.sleep(_pause_s(failures))

    def wait(self, job_id: str, timeout_s: float | None = None, poll_s: float = 0.5) -> JobView:
        """The job once it has ended, however it did. Raises ServiceError if that takes longer than `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (job := self.job(job_id)).state not in ENDED:
            if deadline is not None and time.monotonic() >= deadline:
                raise ServiceError(
                    f"job {job_id} has not ended after {timeout_s:g} s: it is {job.state}",
                    do="wait longer; the job goes on",
                    details={"job": job_id, "state": job.state},
                )
            time.sleep(poll_s)
        return job

    def cancel(self, job_id: str) -> JobView:
        """Ask the job to stop. Raises NoSuchJob, IllegalTransition if it has ended."""
        return _job(self._send("POST", f"/jobs/{job_id}/cancel"))

    def retry(self, job_id: str) -> JobView:
        """Queue a failed or canceled job again. Raises NoSuchJob, IllegalTransition, TargetBusy."""
        return _job(self._send("POST", f"/jobs/{job_id}/retry", again=False))

    def plan(self, job: Job | dict[str, Any] | str, timeout_s: float = 120) -> dict[str, Any]:
        """What the job would do (`Plan.summary()`); nothing is written. Raises what planning raises."""
        summary: dict[str, Any] = self._send("POST", "/plans", json=_as_json(job), timeout=timeout_s)
        return summary

    def families(self) -> list[dict[str, Any]]:
        """The model families the service converts."""
        found: list[dict[str, Any]] = self._send("GET", "/families")
        return found

    def version(self) -> dict[str, str]:
        """The service's version."""
        found: dict[str, str] = self._send("GET", "/version")
        return found

    def ready(self) -> dict[str, str]:
        """What was checked, if the service can take and run jobs. Raises NotReady, ServiceError."""
        found: dict[str, str] = self._send("GET", "/readyz", again=False)
        return found

    def _send(self, method: str, path: str, *, again: bool = True, **request: Any) -> Any:
        """The answer's JSON. With `again`, the request is one that does the same when it is sent twice."""
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS or not again
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.ConnectError):
                    raise self._unreachable(error) from error
            else:
                if response.is_success:
                    return response.json()
                if last or response.status_code not in AGAIN:
                    raise _error(response)
            time.sleep(_pause_s(attempt))
        raise AssertionError("the last attempt returns or raises")

    def _stream(self, job_id: str, after: int) -> Iterator[EventView]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(STREAM_SILENCE_S, connect=10)
        with self._http.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise _error(response)
            for line in response.iter_lines():
                # The service writes an event's data on one line; it holds the id and the kind too.
                if line.startswith("data:"):
                    yield _view(EventView, json.loads(line[5:]))

    def _unreachable(self, error: httpx.TransportError) -> ServiceError:
        return ServiceError(
            f"no convsvc service answers at {self.base_url}",
            facts=[str(error) or type(error).__name__],
            do="start one with `convsvc serve`, or give the right address with --url",
            details={"url": self.base_url},
        )


def _as_json(job: Job | dict[str, Any] | str) -> dict[str, Any]:
    """What is sent. A dict goes as it is, for the service checks it with the same code: pydantic would cost half of `convsvc submit`."""
    if isinstance(job, dict):
        return job
    from convsvc.spec import dump_job, parse_job

    return dump_job(parse_job(job))


def _error(response: httpx.Response) -> ConvsvcError:
    try:
        document = response.json()
    except ValueError:
        document = {}
    if not isinstance(document, dict) or "detail" not in document:
        return ServiceError(f"{response.url} answered {response.status_code}", facts=[response.text[:200]] if response.text else [])
    kind = document.get("kind", "ServiceError")
    error = error_from_dict({**document, "type": kind, "message": document["detail"]})
    # A kind that this version does not know is still the service's error.
    return error if type(error).__name__ == kind else error_from_dict({**error.as_dict(), "type": "ServiceError"})


def _job(data: dict[str, Any]) -> JobView:
    return _view(JobView, {**data, "progress": _view(Progress, data.get("progress") or {})})


def _view(kind: type[View], data: dict[str, Any]) -> View:
    """The view, from JSON. Fields that this version does not know are left out: the service may be newer."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: _time(value) if name == "at" or name.endswith("_at") else value for name, value in data.items() if name in known})


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00"))


def _pause_s(attempt: int) -> float:
    return float(min(0.25 * 2 ** (attempt - 1), 5.0))
