"""Who did what: for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from convsvc.service.access.callers import Admin
from convsvc.service.problems import problems
from convsvc.service.routes.context import NO_NUL, Here
from convsvc.service.views import AuditPage

router = APIRouter(tags=["audit"], responses=problems(401, 403, 422, 429))


@router.get("/audit")
def audit(
    _: Admin,
    here: Here,
    tenant: Annotated[str | None, Query(max_length=64, pattern=NO_NUL)] = None,
    action: Annotated[
        str | None, Query(max_length=32, pattern=NO_NUL, description="submit, cancel, retry, plan, authenticate, token.create ...")
    ] = None,
    job: Annotated[str | None, Query(max_length=26, pattern=NO_NUL, description="A job's id.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="The last page's next_cursor.")] = None,
) -> AuditPage:
    """The audit, newest first. Every submit, cancel, retry and plan; every change of tokens and tenants; every refused token."""
    return here.audit.page(limit=limit, cursor=cursor, tenant=tenant, action=action, job_id=job)
