"""The console's routes, in the order in which they are looked for."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from convsvc.service.console import administration, cluster_page, entry, job_actions, job_list, job_page, new_job, picture_page, runs
from convsvc.service.console.visits import HOME

ROUTERS: tuple[APIRouter, ...] = (
    entry.router,
    job_list.router,
    job_page.router,
    job_actions.router,
    new_job.router,
    picture_page.router,
    runs.router,
    cluster_page.router,
    administration.router,
    entry.nowhere,
)
front_door = APIRouter(include_in_schema=False)


@front_door.get("/")
def root(request: Request) -> Response:
    """Whoever comes with a browser wants the console."""
    if "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(404, "Not Found")
    return RedirectResponse(HOME, status_code=307)
