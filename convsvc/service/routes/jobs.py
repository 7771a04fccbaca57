"""Submitting, looking at, canceling and retrying jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from convsvc.service.access.callers import Reader, Writer
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import check_places, roots_of
from convsvc.service.errors import Forbidden
from convsvc.service.problems import problems
from convsvc.service.routes.context import JOB_BODY, NO_NUL, Context, Here, JobBody, JobId, act
from convsvc.service.store.states import JobState
from convsvc.service.views import JobPage, JobView, TaskView
from convsvc.spec import Job

router = APIRouter(tags=["jobs"], responses=problems(401, 403, 422, 429))

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key with the same job answers the first request's job (200) instead of making another.",
    ),
]


@router.post(
    "/jobs",
    status_code=201,
    openapi_extra=JOB_BODY,
    responses={200: {"model": JobView, "description": "The key was seen before: the job it made"}, **problems(409, 413)},
)
async def submit(caller: Writer, job: JobBody, here: Here, request: Request, response: Response, key: Key = None) -> JobView:
    """Queue a job. It is checked here, and planned by the executor: a job that cannot be planned ends as failed."""
    view, created = await run_in_threadpool(_submit, here, caller, request, job, key)
    response.headers["Location"] = f"/jobs/{view.id}"
    if not created:
        response.status_code = 200
    return view


def _submit(here: Context, caller: Caller, request: Request, job: Job, key: str | None) -> tuple[JobView, bool]:
    with here.audit.of(act(caller, request, "submit")) as deed:
        check_places(job, roots_of(caller))
        here.settings.webhooks.check(job)
        view, created = here.store.submit(job, key, caller=caller)
        deed.job_id, deed.outcome = view.id, "ok" if created else "repeated"
        return view, created


@router.get("/jobs")
def list_jobs(
    caller: Reader,
    here: Here,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=26, pattern=NO_NUL, description="The last page's next_cursor.")] = None,
    tenant: Annotated[
        str | None, Query(max_length=64, pattern=NO_NUL, description="Only this tenant's; other tenants' than one's own are an admin's.")
    ] = None,
) -> JobPage:
    """The tenant's jobs, newest first; an administrator sees all tenants'."""
    if tenant is not None and caller.sees not in {None, tenant}:
        raise Forbidden(
            f"only an administrator sees the jobs of tenant {tenant}", do="leave tenant out, or use a token with the scope admin"
        )
    return here.store.jobs(state=state, limit=limit, cursor=cursor, tenant=tenant or caller.sees)


@router.get("/jobs/{job_id}", responses=problems(404))
def show_job(caller: Reader, job_id: JobId, here: Here) -> JobView:
    """One job as it stands."""
    return here.store.job(job_id, tenant=caller.sees)


@router.get("/jobs/{job_id}/tasks", responses=problems(404))
def list_tasks(caller: Reader, job_id: JobId, here: Here) -> list[TaskView]:
    """The tasks of the job's current run."""
    return here.store.tasks(job_id, tenant=caller.sees)


@router.post("/jobs/{job_id}/cancel", status_code=202, responses=problems(404, 409))
def cancel(caller: Writer, job_id: JobId, here: Here, request: Request) -> JobView:
    """Ask the job to stop. A queued job is canceled at once, a running one soon; asking again changes nothing."""
    with here.audit.of(act(caller, request, "cancel", job_id)):
        return here.store.cancel(job_id, tenant=caller.sees)


@router.post("/jobs/{job_id}/retry", status_code=202, responses=problems(404, 409))
def retry(caller: Writer, job_id: JobId, here: Here, request: Request) -> JobView:
    """Queue a failed or canceled job again. After a failure it goes on from what was written; a cancel left nothing."""
    with here.audit.of(act(caller, request, "retry", job_id)):
        return here.store.retry(job_id, tenant=caller.sees)
