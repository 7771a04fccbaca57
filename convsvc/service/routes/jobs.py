"""Submitting, looking at, canceling and retrying jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from starlette.concurrency import run_in_threadpool

from convsvc.service.routes.context import JOB_BODY, Here, JobBody, JobId
from convsvc.service.states import JobState
from convsvc.service.views import JobPage, JobView, TaskView

router = APIRouter(tags=["jobs"])

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
    responses={200: {"model": JobView, "description": "The key was seen before: the job it made"}},
)
async def submit(job: JobBody, here: Here, response: Response, key: Key = None) -> JobView:
    """Queue a job. It is checked here, and planned by the executor: a job that cannot be planned ends as failed."""
    view, created = await run_in_threadpool(here.store.submit, job, key)
    response.headers["Location"] = f"/jobs/{view.id}"
    if not created:
        response.status_code = 200
    return view


@router.get("/jobs")
def list_jobs(
    here: Here,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=26, description="The last page's next_cursor.")] = None,
) -> JobPage:
    """Jobs, newest first."""
    return here.store.jobs(state=state, limit=limit, cursor=cursor)


@router.get("/jobs/{job_id}")
def show_job(job_id: JobId, here: Here) -> JobView:
    """One job as it stands."""
    return here.store.job(job_id)


@router.get("/jobs/{job_id}/tasks")
def list_tasks(job_id: JobId, here: Here) -> list[TaskView]:
    """The tasks of the job's current run."""
    return here.store.tasks(job_id)


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel(job_id: JobId, here: Here) -> JobView:
    """Ask the job to stop. A queued job is canceled at once, a running one soon; asking again changes nothing."""
    return here.store.cancel(job_id)


@router.post("/jobs/{job_id}/retry", status_code=202)
def retry(job_id: JobId, here: Here) -> JobView:
    """Queue a failed or canceled job again. After a failure it goes on from what was written; a cancel left nothing."""
    return here.store.retry(job_id)
