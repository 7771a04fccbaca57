"""The list of jobs, as it is now."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.filters import filters_of
from convsvc.service.console.rendering import page
from convsvc.service.console.visits import HOME, Reader
from convsvc.service.errors import Forbidden
from convsvc.service.routes.context import Here
from convsvc.service.store.looking import InFlight, Looking
from convsvc.service.store.states import JOB_STATES, LEASED

router = APIRouter(prefix=HOME, include_in_schema=False, route_class=ConsoleRoute)
PAGE = 50


@router.get("/jobs")
def jobs(caller: Reader, here: Here, request: Request) -> Response:
    """The tenant's jobs, newest first; an administrator sees all tenants'."""
    filters = filters_of(request.query_params)
    if filters.tenant and caller.sees not in {None, filters.tenant}:
        raise Forbidden(f"only an administrator sees the jobs of tenant {filters.tenant}", do="leave the tenant out")
    tenant = filters.tenant or caller.sees
    found = here.store.jobs(filters.wanted(), state=filters.state or None, limit=PAGE, cursor=filters.cursor or None, tenant=tenant)
    looking = Looking(here.store.database)
    in_flight = looking.in_flight([job.id for job in found.jobs if job.state in LEASED])
    counts = looking.counts(tenant)
    return page(
        request,
        "jobs.html",
        filters=filters,
        jobs=found.jobs,
        next_cursor=found.next_cursor,
        in_flight=in_flight,
        idle=InFlight(),
        states=[(state, counts.get(state, 0)) for state in JOB_STATES if counts.get(state) or state == filters.state],
        total=sum(counts.values()),
    )
