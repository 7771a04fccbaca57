"""Several jobs as one submission, with one progress and one report."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from convsvc.service.access.callers import Reader, Writer
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import check_places, roots_of
from convsvc.service.batch_views import BatchPage, BatchView
from convsvc.service.batching.rules import BatchSpec, parse_batch
from convsvc.service.problems import problems
from convsvc.service.routes.context import WHOLE_ID, Context, Here, act
from convsvc.service.routes.jobs import Key
from convsvc.service.store.batches import Batches
from convsvc.spec import Job

router = APIRouter(tags=["batches"], responses=problems(401, 403, 422, 429))

BatchId = Annotated[str, Path(pattern=WHOLE_ID, description="The batch's id.")]
Asked = tuple[BatchSpec, list[Job]]
BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/BatchSpec"}},
            "application/yaml": {"schema": {"$ref": "#/components/schemas/BatchSpec"}},
        },
    }
}


async def batch_in_body(request: Request) -> Asked:
    """The body as a batch, JSON or YAML, with its jobs."""
    return await run_in_threadpool(parse_batch, await request.body())


@router.post(
    "/batches",
    status_code=201,
    openapi_extra=BATCH_BODY,
    responses={200: {"model": BatchView, "description": "The key was seen before: the batch it made"}, **problems(404, 409, 413)},
)
async def submit_batch(
    caller: Writer, asked: Annotated[Asked, Depends(batch_in_body)], here: Here, request: Request, response: Response, key: Key = None
) -> BatchView:
    """Queue several jobs as one: all of them, or none."""
    view, created = await run_in_threadpool(_submit, here, caller, request, asked, key)
    response.headers["Location"] = f"{request.url.path.rstrip('/')}/{view.id}"
    if not created:
        response.status_code = 200
    return view


def _submit(here: Context, caller: Caller, request: Request, asked: Asked, key: str | None) -> tuple[BatchView, bool]:
    spec, jobs = asked
    with here.audit.of(act(caller, request, "batch")) as deed:
        deed.detail = {"jobs": len(jobs), "targets": [job.target.path for job in jobs[:20]]} | ({"name": spec.name} if spec.name else {})
        roots = roots_of(caller)
        for job in jobs:
            check_places(job, roots)
            here.settings.webhooks.check(job)
        view, created = Batches(here.store).submit(spec.name, jobs, key, caller=caller)
        deed.detail |= {"batch": view.id}
        deed.outcome = "ok" if created else "repeated"
        return view, created


@router.get("/batches")
def list_batches(
    caller: Reader,
    here: Here,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(pattern=WHOLE_ID, description="The last page's next_cursor.")] = None,
) -> BatchPage:
    """The tenant's batches, newest first, without their jobs; an administrator sees all tenants'."""
    return Batches(here.store).batches(limit=limit, cursor=cursor, tenant=caller.sees)


@router.get("/batches/{batch_id}", responses=problems(404))
def show_batch(caller: Reader, batch_id: BatchId, here: Here) -> BatchView:
    """One batch as it stands, with its jobs: its progress, and its report."""
    return Batches(here.store).batch(batch_id, tenant=caller.sees)


@router.post("/batches/{batch_id}/cancel", status_code=202, responses=problems(404, 409))
def cancel_batch(caller: Writer, batch_id: BatchId, here: Here, request: Request) -> BatchView:
    """Ask all of the batch's jobs that have not ended to stop; asking again changes nothing."""
    return stop_batch(here, caller, request, batch_id)


def stop_batch(here: Context, caller: Caller, request: Request, batch_id: str) -> BatchView:
    """Cancel what has not ended of the batch, with a row in the audit. Raises NoSuchBatch."""
    with here.audit.of(act(caller, request, "batch.cancel")) as deed:
        deed.detail = {"batch": batch_id}
        return Batches(here.store).cancel(batch_id, tenant=caller.sees)
