"""Dry runs: what a job would do, without doing it."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request

from convsvc.service.access.callers import Writer
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import check_places, roots_of
from convsvc.service.errors import TooSlow
from convsvc.service.plan_views import PlanView
from convsvc.service.problems import problems
from convsvc.service.routes.context import JOB_BODY, Context, Here, JobBody, act
from convsvc.spec import Job

router = APIRouter(tags=["plans"], responses=problems(401, 403, 409, 413, 422, 429, 503, 504))


@router.post("/plans", openapi_extra=JOB_BODY, response_model=PlanView)
async def plan(caller: Writer, job: JobBody, here: Here, request: Request) -> dict[str, Any]:
    """What the job would do and what it needs: planned from headers alone. Nothing is written.

    `problems` are what would make the job fail as things are now; without any the answer is the same as ever.
    """
    limiter: CapacityLimiter = request.app.state.plan_limiter
    limit = here.settings.plan_timeout_s
    with anyio.move_on_after(limit):
        # A thread cannot be stopped: it is left alone and its answer dropped; the limiter counts it until it ends.
        return await run_sync(partial(_plan, here, caller, request, job), abandon_on_cancel=True, limiter=limiter)
    raise TooSlow(f"planning took more than {limit:g} s", do="submit the job: the executor plans without a limit")


def _plan(here: Context, caller: Caller, request: Request, job: Job) -> dict[str, Any]:
    with here.audit.of(act(caller, request, "plan")):
        roots = roots_of(caller)
        check_places(job, roots)
        found = here.plan(job, roots)
        busy = here.store.busy(job.target.path, caller.sees)
        problems = [problem for problem in found.get("problems", ()) if busy is None or problem["type"] != type(busy).__name__]
        return {**found, "problems": [*([busy.as_dict()] if busy else []), *problems]}
