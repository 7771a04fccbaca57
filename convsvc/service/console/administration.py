"""For administrators: tenants with their quotas, tokens, the audit. Tenants, roots and tokens are made where the service runs."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from convsvc.service.access.tenants import MOST, Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.rendering import page
from convsvc.service.console.visits import HOME, Admin
from convsvc.service.console.visits import Here as Visited
from convsvc.service.errors import WrongValue
from convsvc.service.routes.context import NO_NUL, Here

router = APIRouter(prefix=f"{HOME}/admin", include_in_schema=False, route_class=ConsoleRoute)
Name = Annotated[str, Path(max_length=64, pattern=NO_NUL)]
Words = Annotated[str, Query(max_length=64, pattern=NO_NUL)]
QUOTAS = tuple(MOST)


@router.get("")
def show(
    caller: Admin,
    here: Here,
    request: Request,
    tenant: Words = "",
    action: Words = "",
    job: Words = "",
    cursor: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
) -> Response:
    """Tenants, tokens, and the audit, newest first."""
    database, now = here.store.database, datetime.now(timezone.utc)
    tokens = [(token, token.state(now)) for token in Tokens(database).list()]
    audit = here.audit.page(limit=50, cursor=cursor, tenant=tenant or None, action=action or None, job_id=job or None)
    asked = {"tenant": tenant, "action": action, "job": job}
    return page(request, "admin.html", tenants=Tenants(database).list(), tokens=tokens, audit=audit, asked=asked, quotas=QUOTAS)


@router.post("/tokens/{token_id}/revoke")
def revoke(caller: Admin, token_id: Annotated[str, Path(max_length=12, pattern=NO_NUL)], here: Here) -> Response:
    """Makes a token useless; it is in the audit."""
    Tokens(here.store.database).revoke(token_id, actor=caller.name)
    return RedirectResponse(f"{HOME}/admin", status_code=303)


@router.post("/tenants/{name}/quotas")
def quotas(caller: Admin, name: Name, here: Here, visit: Visited) -> Response:
    """Changes a tenant's quotas and weight: an empty one is none; it is in the audit."""
    values: dict[str, Any] = {quota: _whole(quota, visit.said(quota)) for quota in QUOTAS if quota in visit.form}
    if "weight" in visit.form:
        values["weight"] = _weight(visit.said("weight"))
    Tenants(here.store.database).set(name, actor=caller.name, **values)
    return RedirectResponse(f"{HOME}/admin", status_code=303)


def _whole(name: str, text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise WrongValue("the tenant cannot be so", facts=[f"{name}: {text[:40]} is no whole number"])
    return int(text)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.inf
    if not math.isfinite(weight):
        raise WrongValue("the tenant cannot be so", facts=[f"weight: {text[:40]} is no number"])
    return weight
