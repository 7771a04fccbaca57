"""Fair shares: as a pure function over simulated days, and through the store on both databases."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.service.access.identity import Caller
from convsvc.service.errors import QuotaReached
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.fair_share import RECENT, Candidate, in_turn
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import TenantRow
from convsvc.spec import parse_job

NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)


class Cluster:
    """Executors that take jobs as `in_turn` says, each job lasting a number of ticks. No clock, no database."""

    def __init__(self, slots: int, weights: dict[str, float]) -> None:
        self.slots, self.weights, self.now = slots, weights, 0
        self.running: list[tuple[str, int]] = []
        self.recent: deque[str] = deque(maxlen=RECENT)

    def tick(self, queues: dict[str, deque[tuple[int, int]]]) -> Iterator[str]:
        """One step of time: jobs end, free slots are filled from the queues of (since, ticks)."""
        self.now += 1
        self.running = [(tenant, end) for tenant, end in self.running if end > self.now]
        while len(self.running) < self.slots and (order := in_turn(self._candidates(queues))):
            tenant = order[0].tenant
            _, ticks = queues[tenant].popleft()
            self.running.append((tenant, self.now + ticks))
            self.recent.append(tenant)
            yield tenant

    def _candidates(self, queues: dict[str, deque[tuple[int, int]]]) -> Iterator[Candidate]:
        running, recent = Counter(tenant for tenant, _ in self.running), Counter(self.recent)
        for tenant, queue in queues.items():
            if queue:
                since = NOON + timedelta(seconds=queue[0][0])
                yield Candidate(tenant, since, running[tenant], recent[tenant], self.weights.get(tenant, 1))


def backlog(jobs: int, ticks: int, since: int = 0) -> deque[tuple[int, int]]:
    return deque((since + number, ticks) for number in range(jobs))


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_tenants_get_executors_in_proportion_to_their_weights(slots: int) -> None:
    cluster = Cluster(slots, {"big": 3, "small": 1})
    queues = {"big": backlog(4000, 2), "small": backlog(4000, 2)}
    claimed = Counter(tenant for _ in range(200) for tenant in cluster.tick(queues))
    assert claimed["big"] == pytest.approx(3 * claimed["small"], rel=0.05)


def test_a_thousand_old_jobs_of_one_tenant_do_not_keep_another_waiting() -> None:
    cluster = Cluster(1, {})
    queues = {"flood": backlog(1000, 5), "late": deque([(5000, 5)])}
    claimed = [tenant for _ in range(20) for tenant in cluster.tick(queues)]
    assert "late" in claimed[:2]


def test_executors_that_one_tenant_leaves_free_are_used_by_the_other() -> None:
    cluster = Cluster(4, {"idle": 100})
    queues = {"busy": backlog(100, 50), "idle": deque()}
    assert [*cluster.tick(queues)] == ["busy"] * 4


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 6),
    tenants=st.lists(st.tuples(st.floats(0.2, 20), st.integers(1, 9)), min_size=2, max_size=12),
)
def test_nobody_starves_whatever_the_weights_and_however_long_the_others_jobs_are(slots: int, tenants: list[tuple[float, int]]) -> None:
    cluster = Cluster(slots, {f"t{n}": weight for n, (weight, _) in enumerate(tenants)})
    queues = {f"t{n}": backlog(3000, ticks, since=n * 1000) for n, (_, ticks) in enumerate(tenants)}
    served: set[str] = set()
    for _ in range(len(tenants) * 9 + 9):  # each slot ends some job within nine ticks, and takes one of somebody who has had none
        served.update(cluster.tick(queues))
    assert served == set(queues)


def test_a_tenant_at_its_bound_has_no_turn() -> None:
    full = Candidate("full", NOON, running=2, most_running=2)
    assert in_turn([full]) == []
    assert in_turn([Candidate("free", NOON, running=1, most_running=2)]) != []


# -- through the store ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tenant(database: Database) -> Callable[..., Caller]:
    """Makes a tenant with limits, and somebody of it."""

    def make(name: str, **limits: Any) -> Caller:
        with database.writing() as session:
            session.add(TenantRow(name=name, roots=["/shared"], created_at=NOON, **limits))
        return Caller(f"{name}'s token", name, frozenset({"jobs:write"}))

    return make


@pytest.fixture
def submit(store: Store, a_job: Callable[..., Any]) -> Callable[..., str]:
    numbers = iter(range(10_000))

    def make(caller: Caller, **more: Any) -> str:
        return store.submit(parse_job(a_job(f"/shared/{next(numbers)}", **more)), caller=caller)[0].id

    return make


def claimed_by(claims: Claims, jobs: int) -> list[str]:
    found = [claims.claim() for _ in range(jobs)]
    return [claim.tenant for claim in found if claim is not None]


def test_claims_take_turns_among_tenants_by_weight(claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]) -> None:
    big, small = tenant("big", weight=2.0), tenant("small")
    for _ in range(9):
        submit(big)
    for _ in range(9):
        submit(small)
    assert Counter(claimed_by(claims, 9)) == {"big": 6, "small": 3}


def test_what_was_given_lately_decides_when_nothing_runs(claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]) -> None:
    first, second = tenant("first"), tenant("second")
    for caller in (first, first, first, second, second):
        submit(caller)
    order = []
    while (claim := claims.claim()) is not None:
        order.append(claim.tenant)
        claims.succeed(claim, {})
    assert order == ["first", "second", "first", "second", "first"]


def test_within_a_tenant_the_higher_priority_comes_first_and_then_the_older_job(
    claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]
) -> None:
    caller = tenant("a")
    ids = {name: submit(caller, priority=priority) for name, priority in (("low", -5), ("old", 0), ("new", 0), ("high", 7))}
    order = [claims.claim() for _ in range(4)]
    assert [claim.job_id for claim in order if claim] == [ids[name] for name in ("high", "old", "new", "low")]


def test_one_tenants_priorities_are_nothing_to_another(claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]) -> None:
    loud, quiet = tenant("loud"), tenant("quiet")
    for _ in range(5):
        submit(loud, priority=100)
    submit(quiet, priority=-100)
    assert "quiet" in claimed_by(claims, 2)


def test_a_job_that_was_put_back_keeps_its_place(
    store: Store, claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]
) -> None:
    caller = tenant("a")
    back, _ = submit(caller), submit(caller)
    claim = claims.claim()
    assert claim is not None
    assert claim.job_id == back
    before = store.job(back).queued_at
    claims.release(claim)
    assert store.job(back).queued_at == before
    again = claims.claim()
    assert again is not None
    assert again.job_id == back


def test_a_tenant_runs_no_more_jobs_than_it_may_even_when_many_executors_ask_at_once(
    database: Database, tenant: Callable[..., Caller], submit: Callable[..., str]
) -> None:
    caller = tenant("bounded", most_running_jobs=3)
    for _ in range(8):
        submit(caller)
    found: list[Any] = []
    ready = threading.Barrier(8)

    def take(number: int) -> None:
        claims = Claims(database, f"executor-{number}")
        ready.wait(30)
        found.append(claims.claim())

    at_once(take, 8)
    taken = [claim for claim in found if claim is not None]
    assert (len(taken), len(found)) == (3, 8)
    Claims(database, "executor-0").succeed(taken[0], {})
    assert claimed_by(Claims(database, "another"), 2) == ["bounded"]


def test_a_bounded_tenant_that_is_full_does_not_hold_up_the_others(
    claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]
) -> None:
    full, other = tenant("full", most_running_jobs=0), tenant("other")
    submit(full)
    submit(other)
    assert claimed_by(claims, 3) == ["other"]


def test_a_claim_carries_its_tenants_roots(claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]) -> None:
    submit(tenant("a"))
    claim = claims.claim()
    assert claim is not None
    assert (claim.tenant, claim.roots) == ("a", ("/shared",))


def test_more_jobs_than_a_tenant_may_queue_are_refused_with_the_time_to_come_back(
    store: Store, claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]
) -> None:
    caller, other = tenant("a", most_queued_jobs=2), tenant("b", most_queued_jobs=2)
    submit(caller)
    submit(caller)
    with pytest.raises(QuotaReached, match="tenant a has 2 jobs in the queue") as caught:
        submit(caller)
    assert caught.value.details["retry_after_s"] > 0
    submit(other)
    assert claims.claim() is not None
    assert claims.claim() is not None
    submit(caller)


def test_a_quota_holds_when_many_submit_at_once(store: Store, tenant: Callable[..., Caller], submit: Callable[..., str]) -> None:
    caller = tenant("a", most_queued_jobs=4)
    outcomes: list[str] = []
    ready = threading.Barrier(10)

    def act(number: int) -> None:
        ready.wait(30)
        try:
            outcomes.append(submit(caller))
        except QuotaReached:
            outcomes.append("refused")

    at_once(act, 10)
    assert (len(outcomes), outcomes.count("refused")) == (10, 6)
    assert store.counts() == {"queued": 4}


def test_bytes_that_are_still_to_be_written_are_bounded(
    store: Store, claims: Claims, tenant: Callable[..., Caller], submit: Callable[..., str]
) -> None:
    caller = tenant("a", most_active_bytes=1000)
    submit(caller)
    submit(caller)  # nobody knows yet how large they are
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(0, "layer 0", 1000)])
    with pytest.raises(QuotaReached, match="tenant a has 1000 B to be written"):
        submit(caller)
    claims.succeed(claim, {})
    submit(caller)


def test_a_request_that_comes_again_is_answered_although_the_quota_is_reached(
    store: Store, tenant: Callable[..., Caller], a_job: Callable[..., Any]
) -> None:
    caller = tenant("a", most_queued_jobs=1)
    first, created = store.submit(parse_job(a_job()), "key", caller=caller)
    assert created
    outcomes: list[tuple[str, bool]] = []

    def again(_: int) -> None:
        view, new = store.submit(parse_job(a_job()), "key", caller=caller)
        outcomes.append((view.id, new))

    at_once(again, 4)
    assert outcomes == [(first.id, False)] * 4


def test_a_retry_needs_room_in_the_queue_too(store: Store, tenant: Callable[..., Caller], submit: Callable[..., str]) -> None:
    caller = tenant("a", most_queued_jobs=1)
    first = submit(caller)
    store.cancel(first)
    second = submit(caller)
    with pytest.raises(QuotaReached):
        store.retry(first)
    assert store.job(first).state == "canceled"
    store.cancel(second)
    assert store.retry(first).state == "queued"


def at_once(act: Callable[[int], None], number: int) -> None:
    threads = [threading.Thread(target=act, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
