"""Whole runs: watches of training runs with their iterations, batches with their jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from convsvc.errors import ConvsvcError, JobError
from convsvc.job_text import parse_text
from convsvc.service.batching.rules import laid_over
from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.rendering import page
from convsvc.service.console.visits import HOME, Reader, Writer
from convsvc.service.console.visits import Here as Visited
from convsvc.service.routes.batches import stop_batch
from convsvc.service.routes.context import WHOLE_ID, Here
from convsvc.service.routes.watches import drop_watch, make_watch
from convsvc.service.store.batches import Batches
from convsvc.service.store.watches import Watches
from convsvc.service.watching.rules import MOST_ITERATION, parse_watch
from convsvc.spec.formats import names_of

router = APIRouter(prefix=HOME, include_in_schema=False, route_class=ConsoleRoute)
PAGE, ITERATIONS = 50, 200
WatchId = Annotated[str, Path(pattern=WHOLE_ID)]
BatchId = Annotated[str, Path(pattern=WHOLE_ID)]


@router.get("/runs")
def runs(caller: Reader, here: Here, request: Request, cursor: Annotated[str | None, Query(pattern=WHOLE_ID)] = None) -> Response:
    """The tenant's watches and batches, newest first; an administrator sees all tenants'."""
    watches = Watches(here.store.database).watches(tenant=caller.sees)
    batches = Batches(here.store).batches(limit=PAGE, cursor=cursor, tenant=caller.sees)
    return page(request, "runs.html", watches=watches, batches=batches, cursor=cursor)


@router.get("/watches/new")
def new_watch(caller: Writer, request: Request) -> Response:
    """An empty form."""
    return _form(request, {})


@router.post("/watches/new")
async def create_watch(caller: Writer, here: Here, visit: Visited, request: Request) -> Response:
    """Watches the directory, and leads to the watch's page; or shows the form once more, with what is wrong."""
    said = {name: visit.said(name) for name in visit.form}
    try:
        spec = parse_watch(watch_said(said))
        view, _ = await run_in_threadpool(make_watch, here, caller, request, spec)
    except ConvsvcError as error:
        return _form(request, said, error)
    return RedirectResponse(f"{HOME}/watches/{view.id}", status_code=303)


@router.get("/watches/{watch_id}")
def watch(
    caller: Reader, watch_id: WatchId, here: Here, request: Request, before: Annotated[int | None, Query(ge=0, le=MOST_ITERATION)] = None
) -> Response:
    """One watch: what was seen of its run, the highest iteration first, each with its job."""
    watches = Watches(here.store.database)
    seen = watches.iterations(watch_id, tenant=caller.sees, before=before, limit=ITERATIONS)
    older = seen[-1].iteration if len(seen) == ITERATIONS else None
    return page(request, "watch.html", watch=watches.watch(watch_id, tenant=caller.sees), seen=seen, before=before, older=older)


@router.post("/watches/{watch_id}/remove")
def remove_watch(caller: Writer, watch_id: WatchId, here: Here, request: Request) -> Response:
    """Watches no longer."""
    drop_watch(here, caller, request, watch_id)
    return RedirectResponse(f"{HOME}/runs", status_code=303)


@router.get("/batches/{batch_id}")
def batch(caller: Reader, batch_id: BatchId, here: Here, request: Request) -> Response:
    """One batch: its progress and its report, job by job."""
    return page(request, "batch.html", batch=Batches(here.store).batch(batch_id, tenant=caller.sees))


@router.post("/batches/{batch_id}/cancel")
def cancel_batch(caller: Writer, batch_id: BatchId, here: Here, request: Request) -> Response:
    """Asks those of its jobs to stop that have not ended."""
    stop_batch(here, caller, request, batch_id)
    return RedirectResponse(f"{HOME}/batches/{batch_id}", status_code=303)


def _form(request: Request, said: dict[str, str], error: ConvsvcError | None = None) -> Response:
    status = 200 if error is None else error.http_status
    formats = {"source_formats": names_of("source"), "target_formats": names_of("target")}
    return page(request, "watch_new.html", said=said, error=error, status=status, **formats)


def watch_said(said: dict[str, str]) -> dict[str, Any]:
    """The watch that a form says: what is empty is not said. Raises JobError for a job that is no JSON or YAML.

    >>> watch_said({"directory": "/run", "every": "100", "source.format": "mindspeed-llm", "target.path": "/out/{iteration}", "job": ""})
    {'directory': '/run', 'every': '100', 'job': {'source': {'format': 'mindspeed-llm'}, 'target': {'path': '/out/{iteration}'}}}
    """
    job: dict[str, Any] = {}
    for name, text in said.items():
        side, _, word = name.partition(".")
        if side in {"source", "target"} and text:
            job.setdefault(side, {})[word] = text
    more = parse_text(said["job"], "what else the job says") if said.get("job") else {}
    if not isinstance(more, dict):
        raise JobError("what else the job says is no object", do='write it as in a job\'s JSON: {"options": {...}}')
    fields = {name: said[name] for name in ("name", "directory", "every", "since", "rest_s", "order", "keep") if said.get(name)}
    return {**fields, "job": laid_over(job, more)}
