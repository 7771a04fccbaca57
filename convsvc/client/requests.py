"""What is asked of the service, request by request, and what its answers mean. No network here: both clients share it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from convsvc.client.answers import (
    as_is,
    attempt_views,
    batch_page,
    batch_view,
    executor_views,
    iteration_views,
    job_page,
    job_view,
    log_lines,
    node_views,
    plan_view,
    task_views,
    watch_view,
    watch_views,
    who_view,
)
from convsvc.errors import JobError

if TYPE_CHECKING:
    from convsvc.service.batch_views import BatchPage, BatchView
    from convsvc.service.cluster_views import ExecutorView, NodeView, WhoAmI
    from convsvc.service.plan_views import PlanView
    from convsvc.service.views import AttemptView, JobPage, JobView, LogLine, TaskView
    from convsvc.service.watch_views import IterationView, WatchView
    from convsvc.spec import Job

    AnyJob = Job | dict[str, Any] | str | os.PathLike[str]

Answer = TypeVar("Answer")
Json = dict[str, Any]

API = "/v1"
PAGE = 1000
PATIENCE_S = 120.0  # in following a job: a service that is upgraded is back by then


@dataclass(frozen=True, slots=True)
class Request(Generic[Answer]):
    """One request. `read` makes the answer of the JSON in it.

    `again`: it does the same when it is sent twice, so that it may be sent again where nobody knows what became of it.
    `patience_s`: it is one of many, in following a job: a service that is restarted is waited for, however often that takes trying.
    """

    method: str
    path: str
    read: Callable[[Any], Answer]
    params: Json = field(default_factory=dict)
    json: Json | None = None
    headers: dict[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    again: bool = True
    patience_s: float | None = None

    def as_httpx(self) -> Json:
        """The arguments of httpx's `request` and `build_request`. Without `timeout_s` the client's own holds."""
        given: Json = {"method": self.method, "url": self.path, "headers": self.headers}
        if self.params:
            given["params"] = self.params
        if self.json is not None:
            given["json"] = self.json
        if self.timeout_s is not None:
            given["timeout"] = self.timeout_s
        return given


def submit(job: AnyJob, idempotency_key: str | None) -> Request[JobView]:
    """A key is made where none is given. The request holds it, so that each time it is sent it is the same one."""
    key = idempotency_key or os.urandom(16).hex()
    return Request("POST", f"{API}/jobs", job_view, json=_as_json(job), headers={"Idempotency-Key": _sendable(key)})


def _sendable(key: str) -> str:
    """The key, if a header can have it. Raises JobError."""
    if not all(" " <= character <= "~" for character in key):
        raise JobError(f"the idempotency key {key!r} has characters that no header can have", do="use letters, digits and -")
    return key


def submit_batch(batch: Json, idempotency_key: str | None) -> Request[BatchView]:
    key = idempotency_key or os.urandom(16).hex()
    return Request("POST", f"{API}/batches", batch_view, json=batch, headers={"Idempotency-Key": _sendable(key)})


def batch(batch_id: str, *, patience_s: float | None = None) -> Request[BatchView]:
    return Request("GET", f"{API}/batches/{quote(batch_id, safe='')}", batch_view, patience_s=patience_s)


def batches(limit: int, cursor: str | None) -> Request[BatchPage]:
    return Request("GET", f"{API}/batches", batch_page, params=stated(limit=limit, cursor=cursor))


def cancel_batch(batch_id: str) -> Request[BatchView]:
    return Request("POST", f"{API}/batches/{quote(batch_id, safe='')}/cancel", batch_view)


def job(job_id: str, *, patience_s: float | None = None) -> Request[JobView]:
    return Request("GET", job_path(job_id), job_view, patience_s=patience_s)


def jobs(**wanted: Any) -> Request[JobPage]:
    labels = [name if value is None else f"{name}={value}" for name, value in (wanted.pop("labels", None) or {}).items()]
    times = {name: _in_utc(wanted.pop(name, None)) for name in ("since", "until")}
    return Request("GET", f"{API}/jobs", job_page, params=stated(**wanted, **times, label=labels or None))


def tasks(job_id: str, *, states: Collection[str], after: int, limit: int) -> Request[list[TaskView]]:
    params = stated(state=sorted(states) or None, after=after if after >= 0 else None, limit=limit)
    return Request("GET", job_path(job_id, "tasks"), task_views, params=params)


def task_counts(job_id: str) -> Request[dict[str, int]]:
    return Request("GET", job_path(job_id, "tasks/counts"), as_is)


def attempts(job_id: str, *, bad: bool, limit: int) -> Request[list[AttemptView]]:
    return Request("GET", job_path(job_id, "attempts"), attempt_views, params=stated(bad="true" if bad else None, limit=limit))


def logs(job_id: str, **wanted: Any) -> Request[list[LogLine]]:
    return Request("GET", job_path(job_id, "logs"), log_lines, params=stated(**wanted))


def cancel(job_id: str) -> Request[JobView]:
    return Request("POST", job_path(job_id, "cancel"), job_view)


def retry(job_id: str) -> Request[JobView]:
    # A second one would be refused, although it was the first that did it.
    return Request("POST", job_path(job_id, "retry"), job_view, again=False)


def create_watch(watch: Json) -> Request[WatchView]:
    # Sent twice it is the same one.
    return Request("POST", f"{API}/watches", watch_view, json=watch)


def watches() -> Request[list[WatchView]]:
    return Request("GET", f"{API}/watches", watch_views)


def watch(watch_id: str) -> Request[WatchView]:
    return Request("GET", f"{API}/watches/{quote(watch_id, safe='')}", watch_view)


def iterations(watch_id: str, before: int | None, limit: int) -> Request[list[IterationView]]:
    path = f"{API}/watches/{quote(watch_id, safe='')}/iterations"
    return Request("GET", path, iteration_views, params=stated(before=before, limit=limit))


def remove_watch(watch_id: str) -> Request[WatchView]:
    # A second one would find nothing, although it was the first that did it.
    return Request("DELETE", f"{API}/watches/{quote(watch_id, safe='')}", watch_view, again=False)


def plan(job: AnyJob, timeout_s: float) -> Request[PlanView]:
    return Request("POST", f"{API}/plans", plan_view, json=_as_json(job), timeout_s=timeout_s)


def executors(gone: bool) -> Request[list[ExecutorView]]:
    return Request("GET", f"{API}/executors", executor_views, params={"gone": "true"} if gone else {})


def whoami() -> Request[WhoAmI]:
    return Request("GET", f"{API}/whoami", who_view)


def inspect(path: str, model_type: str | None, timeout_s: float) -> Request[Json]:
    return Request("GET", f"{API}/inspect", as_is, params=stated(path=path, model_type=model_type), timeout_s=timeout_s)


def nodes() -> Request[list[NodeView]]:
    return Request("GET", f"{API}/nodes", node_views)


def families() -> Request[list[Json]]:
    return Request("GET", f"{API}/families", as_is)


def version() -> Request[dict[str, str]]:
    return Request("GET", f"{API}/version", as_is)


def ready() -> Request[dict[str, str]]:
    # Whoever asks wants to know how it is now.
    return Request("GET", "/readyz", as_is, again=False)


def _in_utc(at: datetime | None) -> str | None:
    """The time as the service takes it; one without a zone is this machine's."""
    return None if at is None else at.astimezone(timezone.utc).isoformat()


def stated(**params: Any) -> Json:
    """What was given; the service knows its own defaults."""
    return {name: value for name, value in params.items() if value is not None}


def job_path(job_id: str, what: str = "") -> str:
    """An id goes into the path as one part of it, whatever is in it.

    >>> job_path("01JD2K", "tasks"), job_path("../readyz")
    ('/v1/jobs/01JD2K/tasks', '/v1/jobs/..%2Freadyz')

    Raises JobError for no id at all.
    """
    if not job_id.strip():
        raise JobError("there is no job without an id", do="give the id that submitting answered")
    return "/".join([f"{API}/jobs", quote(job_id, safe=""), *([what] if what else [])])


def _as_json(job: AnyJob) -> Json:
    """What is sent. A dict goes as it is, for the service checks it with the same code: pydantic would cost half of `convsvc submit`."""
    if isinstance(job, dict):
        return job
    if isinstance(job, os.PathLike):
        job = _text_in(job)
    elif isinstance(job, str) and "\n" not in job and os.path.exists(job):
        raise JobError(f"{job} is a file, not a job", do=f"give its path as one: submit(Path({job!r}))")
    from convsvc.spec import dump_job, parse_job

    return dump_job(parse_job(job))


def _text_in(path: os.PathLike[str]) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise JobError(f"{os.fspath(path)}: {reason}", do="name a JSON or YAML file with a job") from None
