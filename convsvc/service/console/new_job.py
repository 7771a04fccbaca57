"""A new job: a form whose answer is looked at as one types, before anything is submitted."""

from __future__ import annotations

import os
import secrets
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from convsvc.errors import ConvsvcError
from convsvc.roots import RootedPath
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import roots_of
from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.job_form import AT_ROOT, fields_of, form_of, job_said, option_fields
from convsvc.service.console.rendering import page
from convsvc.service.console.visits import HOME, Writer
from convsvc.service.console.visits import Here as Visited
from convsvc.service.errors import Forbidden
from convsvc.service.routes.context import NO_NUL, Here
from convsvc.service.routes.jobs import submit_job
from convsvc.service.routes.plans import in_time, inspect_path, plan_job
from convsvc.spec import parse_job
from convsvc.spec.formats import names_of

router = APIRouter(prefix=HOME, include_in_schema=False, route_class=ConsoleRoute)
MOST_SHOWN = 500
Path = Annotated[str, Query(max_length=4096, pattern=NO_NUL)]


@router.get("/new")
def new(caller: Writer, here: Here, request: Request, like: Annotated[str, Query(max_length=26, pattern=NO_NUL)] = "") -> Response:
    """An empty form, or that of a job that is to be done again with changes."""
    if like and not caller.may("jobs:read"):
        raise Forbidden("a job that is to be done again must be seen first: this needs the scope jobs:read")
    form = form_of(here.store.job(like, tenant=caller.sees).spec) if like else {}
    return _form(request, form)


@router.post("/new")
async def submit(caller: Writer, here: Here, visit: Visited, request: Request) -> Response:
    """Queues the job, and leads to its page; or shows the form once more, with what is wrong."""
    try:
        job = parse_job(job_said(visit.form))
        key = visit.said("key")[:64] or None
        view, _ = await run_in_threadpool(submit_job, here, caller, request, job, key)
    except ConvsvcError as error:
        return await run_in_threadpool(partial(_form, request, visit.form, error))
    return RedirectResponse(f"{HOME}/jobs/{view.id}", status_code=303)


@router.post("/new/plan")
async def plan(caller: Writer, here: Here, visit: Visited, request: Request) -> Response:
    """What the job would do, or why it could not; nothing is written."""
    try:
        job = parse_job(job_said(visit.form))
        if job.mode != "convert":
            return page(request, "plan_answer.html", plan=None, error=None)
        found = await in_time(request, here, partial(plan_job, here, caller, request, job), "submit the job")
    except ConvsvcError as error:
        return page(request, "plan_answer.html", plan=None, error=error)
    return page(request, "plan_answer.html", plan=found, error=None)


@router.post("/new/inspect")
async def inspect(caller: Writer, here: Here, visit: Visited, request: Request) -> Response:
    """What lies at the source's path; the form's format becomes the one that was found."""
    path = visit.said("source.path")
    found, error = None, None
    try:
        if path:
            found = await in_time(request, here, partial(inspect_path, here, caller, request, path, None), "choose its format by hand")
    except ConvsvcError as raised:
        error = raised
    chosen = str((found or {}).get("format") or visit.said("source.format"))
    return page(request, "inspected.html", found=found, error=error, path=path, chosen=chosen, formats=names_of("source"))


@router.get("/new/fields")
def fields(caller: Writer, request: Request) -> Response:
    """The fields of a target of the format that was chosen."""
    name = request.query_params.get("target.format", "")
    return page(request, "target_fields.html", fields=fields_of("target", name), form={})


@router.get("/browse")
def browse(caller: Writer, request: Request, path: Path = "") -> Response:
    """The directories in the caller's roots."""
    error, shown = None, _Shown()
    try:
        shown = _look(caller, path)
    except ConvsvcError as raised:
        error = raised
    return page(request, "browse.html", path=path, shown=shown, error=error)


class _Shown:
    """Directories and files at a path, and where its parent is, if that can be looked at."""

    def __init__(self, parent: str | None = None) -> None:
        self.parent, self.is_more = parent, False
        self.folders: list[tuple[str, str]] = []
        self.files: list[str] = []


def _look(caller: Caller, path: str) -> _Shown:
    roots = roots_of(caller)
    starts = list(caller.roots) if caller.roots is not None else ["/"]
    if not path:
        shown = _Shown()
        shown.folders = [(root, root) for root in starts]
        return shown
    place = RootedPath(os.path.normpath(path), roots)
    shown = _Shown("" if place.path in starts else os.path.dirname(place.path))
    names = place.names()
    shown.is_more = len(names) > MOST_SHOWN
    for name in names[:MOST_SHOWN]:
        try:
            within = place / name
            if within.is_dir():
                shown.folders.append((name, within.path))
            else:
                shown.files.append(name)
        except ConvsvcError:  # a link that leads out of the roots, or nowhere
            continue
    return shown


def _form(request: Request, form: dict[str, list[str]], error: ConvsvcError | None = None) -> Response:
    target = form.get("target.format", [""])[-1]
    values: dict[str, Any] = {
        "form": form,
        "error": error,
        "source_formats": names_of("source"),
        "target_formats": names_of("target"),
        "fields": fields_of("target", target),
        "source_fields": [
            (name, form[name][-1]) for name in form if name.startswith("source.") and name not in {"source.path", "source.format"}
        ],
        "options": option_fields(),
        "at_root": AT_ROOT,
        "key": f"console-{secrets.token_hex(16)}",
    }
    return page(request, "new.html", status=error.http_status if error else 200, **values)
