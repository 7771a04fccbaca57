"""Sums over all jobs, of which the console tells, on both databases."""

from __future__ import annotations

from convsvc.service.access.identity import Caller
from convsvc.service.access.tenants import Tenants
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.looking import InFlight, Load, Looking
from convsvc.spec import parse_job
from tests.service.conftest import job_for


def test_sums_and_states_are_those_of_the_rows(database: Database, store: Store, claims: Claims) -> None:
    Tenants(database).create("b", actor="the test", weight=3.0)
    theirs = Caller("x", "b", frozenset({"jobs:write"}))
    waits, _ = store.submit(parse_job(job_for("/waits")), caller=theirs)
    runs, _ = store.submit(parse_job(job_for("/runs", priority=9)))
    claims.heartbeat()
    claim = next(one for one in (claims.claim(), claims.claim()) if one and one.job_id == runs.id)
    claims.planned(claim, "llama2", {}, [PlannedTask(n, f"layer {n}", 100) for n in range(4)])
    claims.phase(claim, "write", 4)
    claims.task_started(claim, 0, 1)
    claims.task_done(claim, 0, seconds=0.1)
    claims.task_started(claim, 1, 1)
    claims.task_failed(claim, 1, {"type": "StorageError", "message": "no"}, will_retry=True)
    claims.task_started(claim, 1, 2)
    looking = Looking(database)
    assert looking.in_flight([runs.id, waits.id]) == {runs.id: InFlight(running=1, retries=1)}
    assert looking.in_flight([]) == {}
    assert looking.task_states(runs.id, tenant="default") == [(0, "done", 1), (1, "running", 2), (2, "pending", 0), (3, "pending", 0)]
    assert [(moved.size_bytes, moved.start <= moved.stop) for moved in looking.moved(runs.id)] == [(100, True)]
    assert looking.counts("default") == {"running": 1}
    assert sum(looking.counts().values()) == 2
    assert [step.kind for step in looking.steps(runs.id, {"submitted", "phase"})] == ["submitted", "phase"]
    loads = {load.tenant: load for load in looking.loads()}
    assert loads["default"] == Load("default", 0, 1)
    assert (loads["b"].queued + loads["b"].running, loads["b"].weight) == (1, 3.0)
    assert [load.tenant for load in looking.loads("b")] == ["b"]
