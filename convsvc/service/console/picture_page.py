"""The picture of a job's plan: files against layers, bytes a file, and the way from a tensor to its files and back."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from markupsafe import Markup

from convsvc.pictures.page import in_script
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import check_places, roots_of
from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.job_form import job_said
from convsvc.service.console.languages import catalogue
from convsvc.service.console.rendering import page
from convsvc.service.console.visits import HOME, Reader, Writer
from convsvc.service.console.visits import Here as Visited
from convsvc.service.planning import picture_of_job
from convsvc.service.routes.context import Context, Here, JobId, act
from convsvc.service.routes.plans import in_time
from convsvc.spec import Job, parse_job

router = APIRouter(prefix=HOME, include_in_schema=False, route_class=ConsoleRoute)


@router.get("/jobs/{job_id}/picture")
def show(caller: Reader, job_id: JobId, here: Here, visit: Visited, request: Request) -> Response:
    """The page, which asks for the picture: planning may take some seconds."""
    job = here.store.job(job_id, tenant=caller.sees)
    return page(request, "picture.html", job=job, data=None, words=catalogue(visit.language))


@router.get("/jobs/{job_id}/picture.json")
async def data(caller: Reader, job_id: JobId, here: Here, request: Request) -> Response:
    """The picture of what the job does, as its source is now: it is planned anew, and nothing is written."""
    return JSONResponse(
        await in_time(request, here, partial(_of_job, here, caller, request, job_id), "draw it where the storage is mounted")
    )


@router.post("/new/picture")
async def show_new(caller: Writer, here: Here, visit: Visited, request: Request) -> Response:
    """The picture of what the form says, before it is submitted."""
    job = parse_job(job_said(visit.form))
    found = await in_time(request, here, partial(_draw, here, caller, request, job), "submit the job")
    return page(request, "picture.html", job=None, data=Markup(in_script(found)), words=catalogue(visit.language))


def _of_job(here: Context, caller: Caller, request: Request, job_id: str) -> dict[str, Any]:
    job = here.store.job(job_id, tenant=caller.sees)
    return _draw(here, caller, request, parse_job(job.spec), job.id)


def _draw(here: Context, caller: Caller, request: Request, job: Job, job_id: str | None = None) -> dict[str, Any]:
    """The picture, if the job stays in the caller's roots; with its row in the audit."""
    with here.audit.of(act(caller, request, "plan", job_id)):
        roots = roots_of(caller)
        check_places(job, roots)
        return picture_of_job(job, roots)
