"""A job: how it stands, what happened to it, what it was told to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from convsvc.notes import KINDS
from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.rendering import page
from convsvc.service.console.timeline import KINDS as STEPS
from convsvc.service.console.timeline import bars_of, phases_of, throughput
from convsvc.service.console.visits import HOME, Reader
from convsvc.service.errors import NoSuchPage
from convsvc.service.routes.context import Context, Here, JobId
from convsvc.service.routes.streams import MOST, Look, follow, sent_event
from convsvc.service.store.looking import InFlight, Looking
from convsvc.service.store.states import ENDED
from convsvc.service.store.task_logs import LEVELS
from convsvc.service.views import JobView

router = APIRouter(prefix=f"{HOME}/jobs/{{job_id}}", include_in_schema=False, route_class=ConsoleRoute)
Number = Annotated[int, Path(ge=0, le=MOST)]
After = Annotated[int, Query(ge=0, le=MOST)]
Level = Annotated[Literal["debug", "info", "warning", "error", "critical"], Query()]
TAIL = 300
FIRST_BAD = 50
SIGNS = {"pending": "p", "running": "r", "done": "d", "failed": "f"}


@router.get("")
def show(caller: Reader, job_id: JobId, here: Here, request: Request) -> Response:
    """All of it; what changes while the job runs is in `live`, the grid and the log, which are asked for again."""
    job = here.store.job(job_id, tenant=caller.sees)
    lines = here.store.logs(job.id, tenant=caller.sees, limit=TAIL, tail=True)
    return page(request, "job.html", job=job, lines=lines, levels=LEVELS, command=command_of(job), **_live(here, job, caller.sees))


@router.get("/live")
def live(caller: Reader, job_id: JobId, here: Here, request: Request) -> Response:
    """What changes while the job runs."""
    job = here.store.job(job_id, tenant=caller.sees)
    return page(request, "job_live.html", job=job, **_live(here, job, caller.sees))


@router.get("/stream")
async def stream(
    caller: Reader,
    job_id: JobId,
    here: Here,
    request: Request,
    after: After = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=MOST)] = None,
) -> EventSourceResponse:
    """The job's events as they come, as the HTTP interface sends them: a page that hears one asks for what has changed."""
    job = await run_in_threadpool(here.store.job, job_id, tenant=caller.sees)
    seen = last_event_id if last_event_id is not None else after
    read, look = partial(here.store.events, job.id), Look(here, job.id, caller.sees)
    return EventSourceResponse(follow(here, request, job.id, seen, read, sent_event, look), ping=here.settings.ping_s)


@router.get("/tasks.json")
def task_states(caller: Reader, job_id: JobId, here: Here) -> Response:
    """A letter a task, by number, and the numbers of those that were begun more than once."""
    rows = Looking(here.store.database).task_states(job_id, tenant=caller.sees)
    letters = "".join(SIGNS[state] for _, state, _ in rows)
    return JSONResponse({"states": letters, "first": rows[0][0] if rows else 0, "again": [row[0] for row in rows if row[2] > 1]})


@router.get("/throughput.json")
def written(caller: Reader, job_id: JobId, here: Here) -> Response:
    """How fast the job wrote: seconds since its first task began, bytes a second."""
    seconds, rates = throughput(Looking(here.store.database).moved(job_id, tenant=caller.sees))
    return JSONResponse({"seconds": seconds, "rates": rates})


@router.get("/tasks/{number}")
def task(caller: Reader, job_id: JobId, number: Number, here: Here, request: Request) -> Response:
    """A task of the job's current run."""
    found = here.store.tasks(job_id, tenant=caller.sees, after=number - 1, limit=1)
    if not found or found[0].number != number:
        raise NoSuchPage(f"job {job_id} has no task {number}")
    return page(request, "task.html", job_id=job_id, task=found[0])


@router.get("/log.json")
def log(
    caller: Reader,
    job_id: JobId,
    here: Here,
    after: After = 0,
    task: Annotated[int | None, Query(ge=0, le=MOST)] = None,
    level: Level = "debug",
    tail: bool = False,
) -> Response:
    """The log's next lines, or its last ones."""
    lines = here.store.logs(job_id, after=after, tenant=caller.sees, limit=TAIL if tail else 1000, task=task, level=level, tail=tail)
    return JSONResponse([{**asdict(line), "at": f"{line.at.astimezone(timezone.utc):%H:%M:%S}"} for line in lines])


def _live(here: Context, job: JobView, tenant: str | None) -> dict[str, Any]:
    looking, now = Looking(here.store.database), datetime.now(timezone.utc)
    steps = looking.steps(job.id, STEPS, tenant=tenant)
    flight = looking.in_flight([job.id]).get(job.id, InFlight())
    bad = here.store.tasks(job.id, tenant=tenant, states=("failed",), limit=FIRST_BAD)
    return {
        "bars": bars_of(phases_of(steps), now),
        "flight": flight,
        "bad": bad,
        "task_counts": here.store.task_counts(job.id, tenant=tenant),
        "notes": notes_by_kind(job),
        "ended": job.state in ENDED,
        "seen": steps[-1].seq if steps else 0,
    }


def notes_by_kind(job: JobView) -> list[tuple[str, list[str]]]:
    """The job's notes: what is lost first, then as `notes.KINDS` has them; a kind of another version's comes last."""
    said = [(str(note.get("kind", "")), str(note.get("text", ""))) for note in job.notes]
    order = [*KINDS, *sorted({kind for kind, _ in said} - set(KINDS))]
    return [(kind, texts) for kind in order if (texts := [text for one, text in said if one == kind])]


def command_of(job: JobView) -> str:
    """What submits the same job from a shell.

    The JSON is one line in a here-document that nothing is replaced in: no text in it can end it, or be taken for a command.
    """
    return f"convsvc submit - <<'JOB'\n{json.dumps(job.spec, ensure_ascii=False)}\nJOB\n"
