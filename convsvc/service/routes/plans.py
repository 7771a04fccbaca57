"""Dry runs: what a job would do, without doing it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import anyio
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request

from convsvc.errors import JobError
from convsvc.service.access.callers import Writer
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import check_places, roots_of
from convsvc.service.errors import TooSlow
from convsvc.service.plan_views import PlanView
from convsvc.service.problems import problems
from convsvc.service.routes.context import JOB_BODY, NO_NUL, Context, Here, JobBody, act
from convsvc.spec import Job

router = APIRouter(tags=["plans"], responses=problems(401, 403, 409, 413, 422, 429, 503, 504))


@router.post("/plans", openapi_extra=JOB_BODY, response_model=PlanView)
async def plan(caller: Writer, job: JobBody, here: Here, request: Request) -> dict[str, Any]:
    """What the job would do and what it needs: planned from headers alone. Nothing is written.

    `problems` are what would make the job fail as things are now; without any the answer is the same as ever.
    """
    return await in_time(request, here, partial(plan_job, here, caller, request, job), "submit the job: the executor plans without a limit")


@router.get("/inspect")
async def inspect(
    caller: Writer,
    here: Here,
    request: Request,
    path: Annotated[str, Query(min_length=1, max_length=4096, pattern=NO_NUL, description="A directory, or a single weight file.")],
    model_type: Annotated[str | None, Query(max_length=200, pattern=NO_NUL, description="Instead of the detected one.")] = None,
) -> dict[str, Any]:
    """What lies at a path, as the service's machines see it: format, family, sizes, what is missing. Reads headers only."""
    work = partial(inspect_path, here, caller, request, path, model_type)
    return await in_time(request, here, work, "look where the storage is mounted: convsvc inspect")


async def in_time(request: Request, here: Context, work: Callable[[], dict[str, Any]], otherwise: str) -> dict[str, Any]:
    """The answer of work that reads files, a few at once. Raises TooSlow after `plan_timeout_s`."""
    limiter: CapacityLimiter = request.app.state.plan_limiter
    limit = here.settings.plan_timeout_s
    with anyio.move_on_after(limit):
        # A thread cannot be stopped: it is left alone and its answer dropped; the limiter counts it until it ends.
        return await run_sync(work, abandon_on_cancel=True, limiter=limiter)
    raise TooSlow(f"reading it took more than {limit:g} s", do=otherwise)


def inspect_path(here: Context, caller: Caller, request: Request, path: str, model_type: str | None) -> dict[str, Any]:
    """What lies there, if the caller's jobs may read it; with its row in the audit."""
    from convsvc.plan.inspect import inspect_checkpoint  # half of what the API takes to start

    with here.audit.of(act(caller, request, "inspect")) as deed:
        deed.detail = {"path": path}
        if not os.path.isabs(path):
            raise JobError(f"{path} is relative", do="write the path as it is on the service's machines, from / on")
        return inspect_checkpoint(path, model_type, roots_of(caller))


def plan_job(here: Context, caller: Caller, request: Request, job: Job) -> dict[str, Any]:
    """The plan's answer, if the job stays in the caller's roots; with its row in the audit."""
    with here.audit.of(act(caller, request, "plan")):
        roots = roots_of(caller)
        check_places(job, roots)
        found = here.plan(job, roots)
        busy = here.store.busy(job.target.path, caller.sees)
        problems = [problem for problem in found.get("problems", ()) if busy is None or problem["type"] != type(busy).__name__]
        return {**found, "problems": [*([busy.as_dict()] if busy else []), *problems]}
