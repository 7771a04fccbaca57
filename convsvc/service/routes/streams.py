"""A job's log and its events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from convsvc.service.access.callers import Reader, still_welcome
from convsvc.service.problems import problems
from convsvc.service.routes.context import Context, Here, JobId
from convsvc.service.store.states import ENDED
from convsvc.service.views import EventView, LogLine

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
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    task: TaskNumber = None,
    level: Level = None,
    last_event_id: LastEventId = None,
) -> list[LogLine] | Response:
    """The job's log, oldest first: JSON; text for `Accept: text/plain`; for `Accept: text/event-stream` as it is written.

    A stream ends with the job. An event's id is the line's seq: a client that comes back with `Last-Event-ID` misses no line.
    """
    read = partial(here.store.logs, job_id, limit=limit, tenant=caller.sees, task=task, level=level)
    accepted = request.headers.get("accept", "")
    if accepted.startswith("text/event-stream"):
        here.store.job(job_id, tenant=caller.sees)  # a 404 must come before the stream begins
        seen = last_event_id if last_event_id is not None else after
        return EventSourceResponse(_follow(here, request, job_id, seen, read, _sent_line), ping=here.settings.ping_s)
    lines = read(after=after)
    if accepted.startswith("text/plain"):
        return PlainTextResponse("".join(log_text(line) + "\n" for line in lines))
    return lines


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {"itemSchema": EVENT}}}},
)
async def events(
    caller: Reader, job_id: JobId, here: Here, request: Request, after: After = 0, last_event_id: LastEventId = None
) -> EventSourceResponse:
    """What happens to the job, as server-sent events; ends after the event with which the job ends.

    An event's id is its seq; a client that comes back with `Last-Event-ID` misses nothing and hears nothing twice.
    """
    await run_in_threadpool(here.store.job, job_id, tenant=caller.sees)  # a 404 must come before the stream begins
    seen = last_event_id if last_event_id is not None else after
    read = partial(here.store.events, job_id)
    return EventSourceResponse(_follow(here, request, job_id, seen, read, _sent), ping=here.settings.ping_s)


async def _follow(
    here: Context, request: Request, job_id: str, seen: int, read: Callable[..., Sequence[Entry]], sent: Callable[[Entry], ServerSentEvent]
) -> AsyncIterator[ServerSentEvent]:
    while await still_welcome(request):
        # The state is read first: if it is final now, its event is already there to be read.
        job = await run_in_threadpool(here.store.job, job_id)
        news = await run_in_threadpool(read, after=seen)
        for entry in news:
            seen = entry.seq
            yield sent(entry)
        if not news and job.state in ENDED:
            return
        if not news:
            await asyncio.sleep(here.settings.events_poll_s)


def _sent(event: EventView) -> ServerSentEvent:
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
