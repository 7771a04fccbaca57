"""Canceling and retrying, one job or several."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from convsvc.errors import ConvsvcError
from convsvc.service.access.identity import Caller
from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.rendering import page
from convsvc.service.console.visits import HOME, Writer
from convsvc.service.console.visits import Here as Visited
from convsvc.service.errors import WrongValue
from convsvc.service.routes.context import WHOLE_ID, Context, Here, JobId, act
from convsvc.service.views import JobView

router = APIRouter(prefix=HOME, include_in_schema=False, route_class=ConsoleRoute)
MOST_AT_ONCE = 500


@router.post("/jobs/{job_id}/cancel")
def cancel(caller: Writer, job_id: JobId, here: Here, request: Request) -> Response:
    """Asks the job to stop."""
    return RedirectResponse(f"{HOME}/jobs/{_do(here, caller, request, 'cancel', job_id).id}", status_code=303)


@router.post("/jobs/{job_id}/retry")
def retry(caller: Writer, job_id: JobId, here: Here, request: Request) -> Response:
    """Queues a failed or canceled job again."""
    return RedirectResponse(f"{HOME}/jobs/{_do(here, caller, request, 'retry', job_id).id}", status_code=303)


@router.post("/bulk")
def bulk(caller: Writer, here: Here, visit: Visited, request: Request) -> Response:
    """The same with each of the jobs that were ticked; one that refuses does not keep the others from it."""
    action, jobs = visit.said("act"), visit.form.get("job", [])
    if action not in {"cancel", "retry"}:
        raise WrongValue("jobs can be canceled, or tried again")
    if not jobs or len(jobs) > MOST_AT_ONCE or not all(re.fullmatch(WHOLE_ID, job) for job in jobs):
        raise WrongValue("no job was ticked", do="tick some jobs in the list")
    outcomes: list[tuple[str, JobView | None, ConvsvcError | None]] = []
    for job in dict.fromkeys(jobs):
        try:
            outcomes.append((job, _do(here, caller, request, action, job), None))
        except ConvsvcError as error:
            outcomes.append((job, None, error))
    return page(request, "bulk.html", outcomes=outcomes, action=action)


def _do(here: Context, caller: Caller, request: Request, action: str, job_id: str) -> JobView:
    with here.audit.of(act(caller, request, action, job_id)):
        change = here.store.cancel if action == "cancel" else here.store.retry
        return change(job_id, tenant=caller.sees)
