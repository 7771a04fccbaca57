"""Why a job waits, who works, and how fast: what the store says of each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import update

from convsvc.client import Client
from convsvc.engine.inline import InlineEngine
from convsvc.errors import EngineAway
from convsvc.service.access.identity import Caller
from convsvc.service.errors import NoSuchJob, UnclearJob
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.presence import Presence
from convsvc.service.executor.runner import StoreListener
from convsvc.service.store.claims import Claim, Claims, PlannedTask
from convsvc.service.store.clock import now_of
from convsvc.service.store.cluster import Cluster
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import ExecutorRow, JobRow, TenantRow
from convsvc.service.store.pace import Meter, eta_of
from convsvc.service.views import Waiting
from convsvc.spec import parse_job

Submit = Callable[..., str]


@pytest.fixture
def submit(store: Store, a_job: Callable[..., Any]) -> Submit:
    def queue(target: str = "/shared/out", *, tenant: str = "default", **more: Any) -> str:
        return store.submit(parse_job(a_job(target, **more)), caller=Caller("ci", tenant, frozenset()))[0].id

    return queue


def why(store: Store, job_id: str, tenant: str | None = None) -> Waiting:
    waiting = store.job(job_id, tenant=tenant).waiting
    assert waiting is not None
    return waiting


def long_ago(database: Database, name: str) -> None:
    with database.writing() as session:
        old = now_of(session) - timedelta(minutes=10)
        session.execute(update(ExecutorRow).where(ExecutorRow.name == name).values(heartbeat_at=old))


def test_without_an_executor_a_job_says_so_and_since_when(store: Store, claims: Claims, database: Database, submit: Submit) -> None:
    job_id = submit()
    assert (why(store, job_id).reason, why(store, job_id).position) == ("no-executor", 1)
    claims.heartbeat()
    assert why(store, job_id).reason == "queue"
    long_ago(database, claims.name)
    waiting = why(store, job_id)
    assert waiting.reason == "no-executor"
    assert waiting.since is not None
    assert timedelta(minutes=9) < datetime.now(timezone.utc) - waiting.since < timedelta(minutes=12)


def test_an_executor_that_signed_off_is_not_alive_and_its_end_is_known(store: Store, claims: Claims, submit: Submit) -> None:
    job_id = submit()
    claims.heartbeat()
    claims.sign_off()
    assert why(store, job_id).reason == "no-executor"
    assert store.executor_silence_s() is None
    claims.heartbeat()
    assert why(store, job_id).reason == "queue"


def test_a_queued_job_knows_its_position_and_who_keeps_the_executor_busy(store: Store, claims: Claims, submit: Submit) -> None:
    first = submit("/shared/a")
    claims.heartbeat()
    claims.claim()
    waits, urgent = submit("/shared/b"), submit("/shared/c", priority=5)
    assert [why(store, job).position for job in (waits, urgent)] == [2, 1]
    assert why(store, waits).text == f"position 2 of 2 in the queue; the executor is busy with 1 job ({first})"


def test_other_tenants_jobs_are_counted_not_named(store: Store, claims: Claims, submit: Submit) -> None:
    theirs = submit("/shared/a", tenant="b")
    claims.heartbeat()
    claims.claim()
    mine = submit("/shared/b", tenant="a")
    assert theirs in why(store, mine).text
    assert why(store, mine, "a").text == "position 1 of 1 in the queue; the executor is busy with 1 job"


def test_a_tenant_that_has_as_many_jobs_running_as_it_may_is_told(store: Store, claims: Claims, database: Database, submit: Submit) -> None:
    with database.writing() as session:
        session.add(TenantRow(name="a", roots=[], most_running_jobs=1, created_at=now_of(session)))
    claims.heartbeat()
    submit("/shared/a", tenant="a")
    claims.claim()
    waiting = why(store, submit("/shared/b", tenant="a"))
    assert (waiting.reason, waiting.text) == ("quota", "tenant a has 1 job running, as many as it may")


def test_a_cluster_that_is_away_is_named_with_the_time_since_when(store: Store, claims: Claims, submit: Submit) -> None:
    def no_ray(claim: Claim, listener: StoreListener, should_stop: Callable[[], bool]) -> dict[str, Any]:
        raise EngineAway("Ray at head:6379 did not start or answer: refused")

    job_id, presence = submit(), Presence()
    executor = Executor(claims, lambda: no_ray, presence=presence)  # type: ignore[arg-type, return-value]  # it is never closed
    with pytest.raises(EngineAway) as away:
        executor.run_one(no_ray)  # type: ignore[arg-type]
    presence.away(str(away.value))
    claims.heartbeat(presence.as_dict())
    waiting = why(store, job_id)
    assert (waiting.reason, waiting.text) == ("engine-away", "Ray at head:6379 did not start or answer: refused")
    assert waiting.since is not None
    presence.opened(InlineEngine())
    claims.heartbeat(presence.as_dict())
    assert why(store, job_id).reason == "queue"


def test_a_job_of_a_newer_schema_waits_for_an_executor_of_that_version(
    store: Store, claims: Claims, database: Database, submit: Submit
) -> None:
    job_id = submit()
    claims.heartbeat(Presence().as_dict())
    with database.writing() as session:
        session.execute(update(JobRow).values(spec_version=99))
    assert why(store, job_id).reason == "version"


def test_a_job_that_was_taken_says_what_it_still_waits_for(store: Store, claims: Claims, database: Database, submit: Submit) -> None:
    job_id = submit()
    claims.heartbeat()
    claim = claims.claim()
    assert claim is not None
    assert why(store, job_id).reason == "engine-starts"
    claims.begin(claim)
    assert store.job(job_id).waiting is None
    claims.waits(claim, "target-busy", "process 7 on node-2 still holds its target")
    assert why(store, job_id) == Waiting("target-busy", "process 7 on node-2 still holds its target", why(store, job_id).since)
    assert [event.data["reason"] for event in store.events(job_id) if event.kind == "waiting"] == ["target-busy"]
    claims.planned(claim, "llama2", {}, [PlannedTask(0, "layer 0", 10)])
    claims.phase(claim, "write", 1)
    assert store.job(job_id).waiting is None
    with database.writing() as session:
        session.execute(update(JobRow).values(lease_until=now_of(session) - timedelta(seconds=1)))
    assert why(store, job_id).reason == "executor-silent"


def test_executors_and_nodes_are_listed_with_their_jobs(store: Store, claims: Claims, database: Database, submit: Submit) -> None:
    cluster, presence = Cluster(database, 30), Presence(jobs_at_once=2)
    claims.heartbeat(presence.as_dict())
    assert (cluster.executors()[0].state, cluster.executors()[0].slots, cluster.nodes()) == ("idle", None, [])
    presence.opened(InlineEngine())
    claims.heartbeat(presence.as_dict())
    job_id = submit(tenant="a")
    claims.claim()
    [one] = cluster.executors()
    assert (one.name, one.state, one.engine, one.slots, one.jobs, one.jobs_at_once) == ("executor-1", "busy", "inline", 1, [job_id], 2)
    [node] = cluster.nodes()
    assert (node.slots, node.executors, node.jobs, node.versions) == (1, ["executor-1"], [job_id], [one.version])
    assert (cluster.executors(tenant="b")[0].jobs, cluster.executors(tenant="b")[0].other_jobs) == ([], 1)
    claims.sign_off()
    assert cluster.executors() == []
    assert [one.state for one in cluster.executors(gone=True)] == ["left"]
    long_ago(database, claims.name)
    claims.heartbeat()
    long_ago(database, claims.name)
    assert [one.state for one in cluster.executors(gone=True)] == ["silent"]


def test_bytes_of_tasks_that_run_count_with_rate_and_eta(store: Store, claims: Claims, submit: Submit) -> None:
    job_id = submit()
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(number, f"layer {number}", 100) for number in range(4)])
    times = iter(range(0, 1000, 5))
    meter = Meter("write", 4, 400, clock=lambda: float(next(times)))
    claims.phase(claim, "write", 4, pace=meter.as_dict())
    meter.done(100)
    claims.task_done(claim, 0, pace=meter.as_dict())
    meter.moved(50)
    claims.moves(claim, meter.as_dict())
    progress = store.job(job_id).progress
    assert (progress.bytes_done, progress.bytes_running, progress.bytes_total, progress.tasks_done) == (100, 50, 400, 1)
    assert (progress.rate_bytes_s, progress.eta_s) == (15.0, pytest.approx(250 / 15, abs=0.1))
    assert progress.eta_basis == "bytes left of write at the mean of the last 10 s; then seal, verify, reopen, publish"


def test_a_resumed_run_counts_what_an_earlier_one_wrote(store: Store, claims: Claims, submit: Submit) -> None:
    job_id = submit()
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(number, f"layer {number}", 100 + number) for number in range(4)])
    claims.phase(claim, "write", 2, skipped=(0, 3))
    progress = store.job(job_id).progress
    assert (progress.tasks_done, progress.bytes_done) == (2, 203)
    assert [task.state for task in store.tasks(job_id)] == ["done", "pending", "pending", "done"]


def test_where_the_bytes_of_a_phase_are_not_known_its_tasks_are_the_basis() -> None:
    noon = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)
    pace = {
        "phase": "compare",
        "began_at": noon.isoformat(),
        "at": (noon + timedelta(seconds=30)).isoformat(),
        "tasks": 3,
        "tasks_total": 5,
    }
    assert eta_of(pace, "roundtrip") == (20.0, "tasks left of compare at the mean since it began; then reopen, publish")
    assert eta_of({**pace, "tasks": 0}, "roundtrip") == (None, None)


def test_an_attempt_that_begins_anew_is_no_negative_speed() -> None:
    times = iter(range(0, 100, 5))
    meter = Meter("write", 2, 200, clock=lambda: float(next(times)))
    meter.moved(80)
    meter.moved(0)
    assert meter.as_dict()["rate"] == 8.0


def test_the_beginning_of_an_id_is_enough_where_it_fits_one_job(store: Store, claims: Claims, submit: Submit) -> None:
    first, second = submit("/shared/a", tenant="a"), submit("/shared/b", tenant="b")
    common = next(n for n in range(26) if first[n] != second[n])
    start = first[: max(4, common + 1)]
    assert store.job(start).id == first
    assert store.job(start.upper()).id == first
    with pytest.raises(UnclearJob) as unclear:
        store.job(first[:common])
    assert set(unclear.value.facts) == {first, second}
    assert store.job(first[:common], tenant="b").id == second  # what others have is not in one's way
    for wrong in (first[:3], "zzzz", f"{first}0", "%%%%", ""):
        with pytest.raises(NoSuchJob):
            store.job(wrong)
    claim = claims.claim()
    assert claim is not None
    assert store.cancel(start).id == first
    assert store.events(start)[0].kind == "submitted"
    assert store.tasks(start) == []


def test_a_live_stream_tells_why_a_job_waits_a_plain_one_does_not(client: Client, store: Store, claims: Claims, submit: Submit) -> None:
    job_id = submit()
    live = client.events(job_id[:20], live=True)
    kinds = []
    for event in live:
        kinds.append(event.kind)
        if event.kind == "waits":
            assert event.data["reason"] == "no-executor"
            store.cancel(job_id)
    assert kinds == ["submitted", "waits", "state"]
    assert [event.kind for event in client.events(job_id)] == ["submitted", "state"]


def test_who_works_is_asked_over_http(client: Client, claims: Claims) -> None:
    presence = Presence()
    presence.opened(InlineEngine())
    claims.heartbeat(presence.as_dict())
    [one], [node] = client.executors(), client.nodes()
    assert (one.name, one.state, node.executors) == ("executor-1", "idle", ["executor-1"])
    assert one.started_at <= one.heartbeat_at
    claims.sign_off()
    assert (client.executors(), len(client.executors(gone=True))) == ([], 1)
