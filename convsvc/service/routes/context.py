"""What every route is given: the store, the settings, the planner, the job in the request's body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from convsvc.roots import Roots
from convsvc.service.access.audit import Act, Audit
from convsvc.service.access.callers import address_of
from convsvc.service.access.identity import Caller
from convsvc.service.following import News
from convsvc.service.settings import Settings
from convsvc.service.store.cluster import Cluster
from convsvc.service.store.jobs import Store
from convsvc.spec import Job, parse_job

Planner = Callable[[Job, Roots], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Context:
    """`plan` answers a plan's summary."""

    store: Store
    settings: Settings
    plan: Planner
    audit: Audit
    cluster: Cluster
    news: News


def context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


async def job_in_body(request: Request) -> Job:
    """The body as a job, JSON or YAML. Parsed by `parse_job`, so that errors read as the command line's."""
    return parse_job(await request.body())


def act(caller: Caller, request: Request, action: str, job_id: str | None = None) -> Act:
    """What is about to be done, for `Audit.of`."""
    return Act(caller, action, address_of(request), job_id)


Here = Annotated[Context, Depends(context)]
JobBody = Annotated[Job, Depends(job_in_body)]
WHOLE_ID = r"^[0-9a-hjkmnp-tv-z]{26}$"
NO_NUL = r"^[^\x00]*$"  # PostgreSQL takes no NUL in a text
JobId = Annotated[
    str,
    Path(pattern=NO_NUL, description="The job's id, or so much of it that it fits no other job.", max_length=26),
]

JOB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Job"}},
            "application/yaml": {"schema": {"$ref": "#/components/schemas/Job"}},
        },
    }
}
