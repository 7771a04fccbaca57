"""Who works, and what waits: executors, machines, the queue of each tenant with its share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from convsvc.service.cluster_views import ExecutorView
from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.rendering import page
from convsvc.service.console.visits import HOME, Reader
from convsvc.service.routes.context import Here
from convsvc.service.store.looking import Load, Looking

router = APIRouter(prefix=HOME, include_in_schema=False, route_class=ConsoleRoute)


@router.get("/cluster")
def cluster(caller: Reader, here: Here, request: Request) -> Response:
    """The cluster as the caller may know it: other tenants' jobs are counted, not named."""
    executors = here.cluster.executors(gone=True, tenant=caller.sees)
    loads = Looking(here.store.database).loads(caller.sees)
    return page(
        request,
        "cluster.html",
        executors=executors,
        nodes=here.cluster.nodes(tenant=caller.sees),
        loads=shares_of(loads),
        health=health_of(executors, sum(load.queued for load in loads)),
    )


@dataclass(frozen=True, slots=True)
class Share:
    """A tenant's load, and what part of the cluster it gets while all that have work want it; in percent, None of one without work."""

    load: Load
    percent: float | None


def shares_of(loads: Sequence[Load]) -> list[Share]:
    """By weight, among the tenants that have work.

    >>> [share.percent for share in shares_of([Load("a", 1, 0, 3.0), Load("b", 0, 2, 1.0), Load("c", 0, 0, 1.0)])]
    [75.0, 25.0, None]
    """
    total = sum(load.weight for load in loads if load.queued or load.running)
    return [Share(load, 100 * load.weight / total if load.queued or load.running else None) for load in loads]


def health_of(executors: Sequence[ExecutorView], queued: int) -> list[tuple[str, str, dict[str, int]]]:
    """What there is to say, the worst first: how bad it is, a sentence of the catalogue, and what stands in it. Pure."""
    count = {state: sum(one.state == state for one in executors) for state in ("idle", "busy", "away", "silent")}
    works = count["idle"] + count["busy"]
    found: list[tuple[str, str, dict[str, int]]] = []
    if not works and not count["away"]:
        found.append(("bad", "No executor is alive: jobs wait. Start one with convsvc executor.", {}))
    if count["away"]:
        found.append(("bad", "Executors that cannot reach their engine: {count}.", {"count": count["away"]}))
    if count["silent"]:
        found.append(("warn", "Executors that went silent, so that others take up what they had: {count}.", {"count": count["silent"]}))
    if works:
        found.append(("good", "Executors that work: {count}, with jobs: {busy}.", {"count": works, "busy": count["busy"]}))
    if queued:
        found.append(("warn" if works else "bad", "Jobs in the queue: {count}.", {"count": queued}))
    return found
