"""Watching training runs: each complete iteration becomes a job, once."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from convsvc.service.access.callers import Reader, Writer
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import check_places, roots_of
from convsvc.service.problems import problems
from convsvc.service.routes.context import WHOLE_ID, Context, Here, act
from convsvc.service.store.watches import Watches
from convsvc.service.watch_views import IterationView, WatchView
from convsvc.service.watching.rules import MOST_ITERATION, WatchSpec, job_for, parse_watch

router = APIRouter(tags=["watches"], responses=problems(401, 403, 422, 429))

WatchId = Annotated[str, Path(pattern=WHOLE_ID, description="The watch's id.")]
WATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/WatchSpec"}},
            "application/yaml": {"schema": {"$ref": "#/components/schemas/WatchSpec"}},
        },
    }
}


async def watch_in_body(request: Request) -> WatchSpec:
    """The body as a watch, JSON or YAML."""
    return parse_watch(await request.body())


@router.post(
    "/watches",
    status_code=201,
    openapi_extra=WATCH_BODY,
    responses={200: {"model": WatchView, "description": "The tenant has this very watch already"}, **problems(409, 413)},
)
async def create_watch(
    caller: Writer, spec: Annotated[WatchSpec, Depends(watch_in_body)], here: Here, request: Request, response: Response
) -> WatchView:
    """Watch a training run's directory. An executor looks at it; each iteration that is whole and at rest becomes a job, once."""
    view, created = await run_in_threadpool(make_watch, here, caller, request, spec)
    response.headers["Location"] = f"{request.url.path.rstrip('/')}/{view.id}"
    if not created:
        response.status_code = 200
    return view


def make_watch(here: Context, caller: Caller, request: Request, spec: WatchSpec) -> tuple[WatchView, bool]:
    """Keep the watch, with a row in the audit; True says that it is new. Raises what the watch is refused for."""
    with here.audit.of(act(caller, request, "watch")) as deed:
        deed.detail = {"directory": spec.directory, "target": spec.job["target"]["path"]}
        sample = job_for(spec, spec.since, {"path": spec.directory}, "0" * 26)
        check_places(sample, roots_of(caller))
        here.settings.webhooks.check(sample)
        view, created = Watches(here.store.database).create(spec, caller=caller)
        deed.detail |= {"watch": view.id}
        deed.outcome = "ok" if created else "repeated"
        return view, created


@router.get("/watches")
def list_watches(caller: Reader, here: Here) -> list[WatchView]:
    """The tenant's watches, newest first; an administrator sees all tenants'."""
    return Watches(here.store.database).watches(tenant=caller.sees)


@router.get("/watches/{watch_id}", responses=problems(404))
def show_watch(caller: Reader, watch_id: WatchId, here: Here) -> WatchView:
    """One watch as it stands."""
    return Watches(here.store.database).watch(watch_id, tenant=caller.sees)


@router.get("/watches/{watch_id}/iterations", responses=problems(404))
def list_iterations(
    caller: Reader,
    watch_id: WatchId,
    here: Here,
    before: Annotated[int | None, Query(ge=0, le=MOST_ITERATION, description="Only lower ones: the last page's last one.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> list[IterationView]:
    """The iterations that were seen and are wanted, the highest first, each with the job that it became."""
    return Watches(here.store.database).iterations(watch_id, tenant=caller.sees, before=before, limit=limit)


@router.delete("/watches/{watch_id}", responses=problems(404))
def remove_watch(caller: Writer, watch_id: WatchId, here: Here, request: Request) -> WatchView:
    """Watch no longer. Jobs that iterations became go on, and what they made stays."""
    return drop_watch(here, caller, request, watch_id)


def drop_watch(here: Context, caller: Caller, request: Request, watch_id: str) -> WatchView:
    """Forget the watch, with a row in the audit; answers it as it was. Raises NoSuchWatch."""
    with here.audit.of(act(caller, request, "watch.remove")) as deed:
        deed.detail = {"watch": watch_id}
        return Watches(here.store.database).remove(watch_id, tenant=caller.sees)
