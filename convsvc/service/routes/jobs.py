"""Submitting, looking at, canceling and retrying jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AwareDatetime, StringConstraints
from starlette.concurrency import run_in_threadpool

from convsvc.service.access.callers import Reader, Writer
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import check_places, roots_of
from convsvc.service.errors import Forbidden
from convsvc.service.problems import problems
from convsvc.service.routes.context import JOB_BODY, NO_NUL, WHOLE_ID, Context, Here, JobBody, JobId, act
from convsvc.service.store.states import JobState, TaskState
from convsvc.service.store.wanted import Wanted
from convsvc.service.views import AttemptView, JobPage, JobView, TaskView
from convsvc.spec import Job

router = APIRouter(tags=["jobs"], responses=problems(401, 403, 422, 429))

MOST_TASKS = 2**31 - 1  # what the column holds
LABEL = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[A-Za-z0-9._/@:+-]{0,63})?$"
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
    view, created = await run_in_threadpool(submit_job, here, caller, request, job, key)
    response.headers["Location"] = f"{request.url.path.rstrip('/')}/{view.id}"
    if not created:
        response.status_code = 200
    return view


def submit_job(here: Context, caller: Caller, request: Request, job: Job, key: str | None) -> tuple[JobView, bool]:
    """Checks its places and queues it, with its row in the audit; whether it is new."""
    with here.audit.of(act(caller, request, "submit")) as deed:
        # What it was, for when the job is forgotten.
        deed.detail = {"source": job.source.path, "target": job.target.path} | ({"name": job.name} if job.name else {})
        deed.detail |= {"mode": job.mode} if job.mode != "convert" else {}
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
    cursor: Annotated[str | None, Query(pattern=WHOLE_ID, description="The last page's next_cursor.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Submitted then or later.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Submitted before then.")] = None,
    name: Annotated[str | None, Query(max_length=200, pattern=NO_NUL, description="In the job's name.")] = None,
    model_type: Annotated[str | None, Query(max_length=200, pattern=NO_NUL)] = None,
    source: Annotated[str | None, Query(max_length=4096, pattern=NO_NUL, description="In the source's path.")] = None,
    target: Annotated[str | None, Query(max_length=4096, pattern=NO_NUL, description="In the target's path.")] = None,
    label: Annotated[
        list[Annotated[str, StringConstraints(pattern=LABEL)]],
        Query(max_length=32, description="NAME=VALUE, or NAME for any value; several: all of them."),
    ] = [],  # noqa: B006  FastAPI copies it
    tenant: Annotated[
        str | None, Query(max_length=64, pattern=NO_NUL, description="Only this tenant's; other tenants' than one's own are an admin's.")
    ] = None,
) -> JobPage:
    """The tenant's jobs, newest first; an administrator sees all tenants'."""
    if tenant is not None and caller.sees not in {None, tenant}:
        raise Forbidden(
            f"only an administrator sees the jobs of tenant {tenant}", do="leave tenant out, or use a token with the scope admin"
        )
    labels = {key: value if equals else None for key, equals, value in (item.partition("=") for item in label)}
    wanted = Wanted(since, until, name, model_type, source, target, labels)
    return here.store.jobs(wanted, state=state, limit=limit, cursor=cursor, tenant=tenant or caller.sees)


@router.get("/jobs/{job_id}", responses=problems(404))
def show_job(caller: Reader, job_id: JobId, here: Here) -> JobView:
    """One job as it stands."""
    return here.store.job(job_id, tenant=caller.sees)


@router.get("/jobs/{job_id}/tasks", responses=problems(404))
def list_tasks(
    caller: Reader,
    job_id: JobId,
    here: Here,
    state: Annotated[list[TaskState], Query(description="Only tasks in these states.")] = [],  # noqa: B006  FastAPI copies it
    after: Annotated[int, Query(ge=-1, le=MOST_TASKS, description="Only tasks with higher numbers: the last page's last one.")] = -1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> list[TaskView]:
    """The tasks of the job's current run, by number; a page at a time."""
    return here.store.tasks(job_id, tenant=caller.sees, states=state, after=after, limit=limit)


@router.get("/jobs/{job_id}/tasks/counts", responses=problems(404))
def count_tasks(caller: Reader, job_id: JobId, here: Here) -> dict[TaskState, int]:
    """How many tasks of the job's current run are in each state that any is in."""
    return here.store.task_counts(job_id, tenant=caller.sees)  # type: ignore[return-value]  # the states are the machine's


@router.get("/jobs/{job_id}/attempts", responses=problems(404))
def list_attempts(
    caller: Reader,
    job_id: JobId,
    here: Here,
    bad: Annotated[bool, Query(description="Only attempts that failed or were lost.")] = False,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
) -> list[AttemptView]:
    """The newest attempts at the job's tasks, of all its runs: where each was, and how it ended."""
    return here.store.attempts(job_id, tenant=caller.sees, bad=bad, limit=limit)


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
