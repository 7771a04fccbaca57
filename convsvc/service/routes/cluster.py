"""Who works: executors, and the machines of their engines; and who asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from convsvc.service.access.callers import Anyone, Reader
from convsvc.service.cluster_views import ExecutorView, NodeView, WhoAmI
from convsvc.service.problems import problems
from convsvc.service.routes.context import Here

router = APIRouter(tags=["cluster"], responses=problems(401, 403, 422, 429))


@router.get("/executors")
def executors(
    caller: Reader, here: Here, gone: Annotated[bool, Query(description="Also those that ended, or went silent, within a day.")] = False
) -> list[ExecutorView]:
    """The executors, what they work on, and whether their engines answer."""
    return here.cluster.executors(gone=gone, tenant=caller.sees)


@router.get("/whoami")
def whoami(caller: Anyone, here: Here) -> WhoAmI:
    """Who asks: his tenant, what he may, where, within which limits, and what counts against them now."""
    limits, use = here.store.allowance(caller.tenant)
    roots = None if caller.roots is None else list(caller.roots)
    return WhoAmI(caller.name, caller.tenant, sorted(caller.scopes), roots, limits, use)


@router.get("/nodes")
def nodes(caller: Reader, here: Here) -> list[NodeView]:
    """The machines on which tasks run. An executor opens its engine with its first job: before that it has none."""
    return here.cluster.nodes(tenant=caller.sees)
