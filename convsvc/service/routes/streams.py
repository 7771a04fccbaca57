"""A job's log and its events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from convsvc.service.access.callers import Reader, still_welcome
from convsvc.service.following import Follower
from convsvc.service.problems import problems
from convsvc.service.routes.context import Context, Here, JobId
from convsvc.service.store.states import ENDED
from convsvc.service.views import EventView, JobView, LogLine

router = APIRouter(tags=["jobs"], responses=problems(401, 403, 404, 422, 429))

# An event, as OpenAPI 3.2 describes those of a stream; readers of 3.1 skip it.
EVENT = {
    "type": "object",
    "required": ["data", "event", "id"],
    "properties": {
        "id": {"type": "string", "description": "Its seq."},
        "event": {"type": "string", "description": "Its kind."},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "An object of seq, at, kind and data."},
    },
}

LOOK_S = 2.0
MOST = 2**31 - 1  # what the column holds
After = Annotated[int, Query(ge=0, le=MOST, description="Only what came after this seq.")]
TaskNumber = Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Only what is about this task.")]
Level = Annotated[Literal["debug", "info", "warning", "error", "critical"] | None, Query(description="Only this level and those above.")]
TEXT: dict[str, Any] = {"schema": {"type": "string"}}
Entry = TypeVar("Entry", EventView, LogLine)
LastEventId = Annotated[int | None, Header(ge=0, le=MOST)]


@router.get(
    "/jobs/{job_id}/logs",
    response_model=list[LogLine],
    responses={200: {"content": {"text/plain": TEXT, "text/event-stream": TEXT}}},
)
def logs(
    caller: Reader,
    job_id: JobId,
    here: Here,
    request: Request,
    response: Response,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    task: TaskNumber = None,
    level: Level = None,
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="Only the last so many lines, instead of the first `limit`.")] = None,
    last_event_id: LastEventId = None,
) -> list[LogLine] | Response:
    """The job's log, oldest first: JSON; text for `Accept: text/plain`; for `Accept: text/event-stream` as it is written.

    Text and JSON are a page: where there is more, the header X-Next-After says after which seq the next one begins. A stream ends with
    the job. An event's id is the line's seq: a client that comes back with `Last-Event-ID` misses no line.
    """
    read = partial(here.store.logs, job_id, limit=limit, tenant=caller.sees, task=task, level=level)
    accepted = request.headers.get("accept", "")
    if accepted.startswith("text/event-stream"):
        job_id = here.store.job(job_id, tenant=caller.sees).id  # a 404 must come before the stream begins
        read = partial(read.func, job_id, **read.keywords)
        seen = last_event_id if last_event_id is not None else after
        return EventSourceResponse(follow(here, request, job_id, seen, read, _sent_line), ping=here.settings.ping_s)
    lines = read(after=after) if tail is None else read(after=after, limit=tail, tail=True)
    if tail is None and len(lines) == limit:
        response.headers["X-Next-After"] = str(lines[-1].seq)
    if accepted.startswith("text/plain"):
        return PlainTextResponse("".join(log_text(line) + "\n" for line in lines), headers=dict(response.headers))
    return lines


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {"itemSchema": EVENT}}}},
)
async def events(
    caller: Reader,
    job_id: JobId,
    here: Here,
    request: Request,
    after: After = 0,
    live: Annotated[bool, Query(description="Also how it is now: events of the kinds `progress` and `waits`, which are not kept.")] = False,
    last_event_id: LastEventId = None,
) -> EventSourceResponse:
    """What happens to the job, as server-sent events; ends after the event with which the job ends.

    An event's id is its seq; a client that comes back with `Last-Event-ID` misses nothing and hears nothing twice. What is told because
    of `live` has no id of its own: its seq is that of the last event before it.
    """
    job = await run_in_threadpool(here.store.job, job_id, tenant=caller.sees)  # a 404 must come before the stream begins
    seen = last_event_id if last_event_id is not None else after
    read = partial(here.store.events, job.id)
    look = Look(here, job.id, caller.sees) if live else None
    return EventSourceResponse(follow(here, request, job.id, seen, read, sent_event, look), ping=here.settings.ping_s)


class Look:
    """How a job is now, where that has changed since it was told."""

    def __init__(self, here: Context, job_id: str, tenant: str | None) -> None:
        self._here, self._job_id, self._tenant = here, job_id, tenant
        self._next = 0.0
        self._told: dict[str, Any] = {}

    async def news(self, job: JobView, seen: int) -> list[ServerSentEvent]:
        """The events that tell of it; why it waits is looked up every `LOOK_S` at most."""
        now: dict[str, Any] = {"progress": job.progress if job.progress.told_at else None}
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK_S
            now["waits"] = (await run_in_threadpool(self._here.store.job, self._job_id, tenant=self._tenant)).waiting
        changed = {kind: value for kind, value in now.items() if value != self._told.get(kind)}
        self._told |= changed
        return [self._event(kind, value, seen) for kind, value in changed.items()]

    def _event(self, kind: str, value: Any, seen: int) -> ServerSentEvent:
        at = datetime.now(timezone.utc).isoformat()
        data = {"seq": seen, "at": at, "kind": kind, "data": asdict(value) if value else {}}
        return ServerSentEvent(json.dumps(data, default=datetime.isoformat), event=kind)


async def follow(
    here: Context,
    request: Request,
    job_id: str,
    seen: int,
    read: Callable[..., Sequence[Entry]],
    sent: Callable[[Entry], ServerSentEvent],
    look: Look | None = None,
) -> AsyncIterator[ServerSentEvent]:
    """What is read of the job as it comes, until the job has ended or the token is no good any more."""
    with here.news.of(job_id) as follower:
        while await still_welcome(request):
            # The state is read first: if it is final now, its event is already there to be read.
            job = await run_in_threadpool(here.store.glance, job_id)
            news = await run_in_threadpool(read, after=seen)
            for entry in news:
                seen = entry.seq
                yield sent(entry)
            if look is not None and job.state not in ENDED:
                for event in await look.news(job, seen):
                    yield event
            if not news and job.state in ENDED:
                return
            if not news and not await _wait(follower, request, here, look):
                return


async def _wait(follower: Follower, request: Request, here: Context, look: Look | None) -> bool:
    """Until there is something to be read, or looked at; False if the token is no good any more."""
    # As often as a token is believed: who was shut out is not followed on an idle stream for long.
    within_s = min(here.settings.token_cache_s, LOOK_S)
    while not await follower.changed(within_s):
        if look is not None:
            return True
        if not await still_welcome(request):
            return False
    return True


def sent_event(event: EventView) -> ServerSentEvent:
    data = {"seq": event.seq, "at": event.at.isoformat(), "kind": event.kind, "data": event.data}
    return ServerSentEvent(json.dumps(data), event=event.kind, id=str(event.seq))


def _sent_line(line: LogLine) -> ServerSentEvent:
    return ServerSentEvent(json.dumps({**asdict(line), "at": line.at.isoformat()}), event="log", id=str(line.seq))


def log_text(line: LogLine) -> str:
    """A line of the log as text.

    >>> from datetime import datetime, timezone
    >>> log_text(LogLine(1, datetime(2024, 1, 2, tzinfo=timezone.utc), "info", "12 tasks"))
    '2024-01-02T00:00:00.000Z info 12 tasks'
    """
    return f"{line.at:%Y-%m-%dT%H:%M:%S}.{line.at.microsecond // 1000:03d}Z {line.level} {line.message}"
