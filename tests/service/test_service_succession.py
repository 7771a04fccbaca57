"""What an executor does while others are in its way or away: a predecessor, the job store, the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from convsvc.errors import EngineAway, TargetBusy, TargetError
from convsvc.execute.staging.holders import Holder, this_process
from convsvc.service.errors import LeaseLost, StoreAway
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.patience import patient
from convsvc.service.executor.succession import after_predecessor
from convsvc.service.store.claims import Claim, Claims
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job


@pytest.fixture
def claim(store: Store, claims: Claims, a_job: Callable[..., dict[str, Any]]) -> Claim:
    store.submit(parse_job(a_job()))
    found = claims.claim()
    assert found is not None
    return found


class Busy:
    """A target that somebody holds for so many tries."""

    def __init__(self, job: str, claim: int, tries: int) -> None:
        self.holder, self.tries = this_process(job, claim), tries

    def __call__(self) -> str:
        if self.tries:
            self.tries -= 1
            raise TargetBusy("busy", details=self.holder.as_dict())
        return "done"


def nothing(*given: object) -> None:
    pass


def never_asked(holder: Holder) -> bool:
    raise AssertionError(f"the target was to be taken from {holder}")


def test_a_successor_waits_for_the_run_before_it_and_says_so_once(claim: Claim) -> None:
    said: list[str] = []
    assert after_predecessor(claim, Busy(claim.job_id, claim.fence - 1, 3), never_asked, nothing, said.append) == "done"
    (line,) = said
    assert f"process {os.getpid()} on" in line


@pytest.mark.parametrize("job", ["another", ""])
def test_a_target_that_is_not_its_own_jobs_is_not_waited_for(job: str, claim: Claim) -> None:
    with pytest.raises(TargetBusy):
        after_predecessor(claim, Busy(job, 1, 3), never_asked, nothing, nothing)


def test_a_run_that_meets_a_later_claim_of_its_job_gives_way(claim: Claim) -> None:
    with pytest.raises(LeaseLost):
        after_predecessor(claim, Busy(claim.job_id, claim.fence + 1, 3), never_asked, nothing, nothing)


def test_a_successor_that_shall_stop_does_not_go_on_waiting(claim: Claim) -> None:
    def stop() -> None:
        raise LeaseLost("gone")

    with pytest.raises(LeaseLost):
        after_predecessor(claim, Busy(claim.job_id, claim.fence, 10**9), never_asked, stop, nothing)


def test_a_predecessor_in_this_very_process_is_never_killed(claim: Claim) -> None:
    busy = Busy(claim.job_id, claim.fence, 2)
    assert after_predecessor(claim, busy, lambda _: True, nothing, nothing, grace_s=0) == "done"


def test_the_target_is_taken_from_a_predecessor_that_nobody_can_end(claim: Claim) -> None:
    busy, said, asked = Busy(claim.job_id, claim.fence - 1, 10**9), list[str](), list[Holder]()

    def take_from(holder: Holder) -> bool:
        asked.append(holder)
        busy.tries = 0
        return True

    assert after_predecessor(claim, busy, take_from, nothing, said.append, grace_s=0) == "done"
    assert asked == [busy.holder]
    assert "is silent and out of reach: the target was taken from it" in said[-1]


def test_a_target_that_cannot_be_taken_from_a_predecessor_is_waited_for_and_the_error_says_why(
    claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_from(holder: Holder) -> bool:
        raise TargetError("the directory is not yours to change")

    monkeypatch.setattr("convsvc.service.executor.succession.PAUSE_S", 0)
    monkeypatch.setattr("convsvc.service.executor.succession.PATIENCE_S", 0.05)
    with pytest.raises(TargetBusy) as caught:
        after_predecessor(claim, Busy(claim.job_id, claim.fence - 1, 10**9), take_from, nothing, nothing, grace_s=0)
    assert caught.value.facts == ("its lock could not be taken: the directory is not yours to change",)


class Deaf(Claims):
    """A job store that does not hear the first words."""

    times = 3

    def log(self, *given: Any, **more: Any) -> None:
        if self.times:
            self.times -= 1
            raise StoreAway("away")
        super().log(*given, **more)


def test_a_report_is_said_again_until_the_job_store_hears_it(
    store: Store, claims: Claims, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convsvc.service.executor.patience.PAUSE_S", 0)
    patient(Deaf(claims.database, claims.name), nothing).log(claim, "at last")
    assert [line.message for line in store.logs(claim.job_id)] == ["at last"]


def test_nothing_is_said_any_more_once_the_lease_must_be_lost(claims: Claims, claim: Claim) -> None:
    deaf = Deaf(claims.database, claims.name)

    def check_held() -> None:
        if deaf.times < 3:
            raise LeaseLost("too long")

    with pytest.raises(LeaseLost):
        patient(deaf, check_held).log(claim, "never")
    assert deaf.times == 2


def test_a_job_whose_cluster_is_away_goes_back_to_the_queue(
    store: Store, claims: Claims, stand_in: Any, a_job: Callable[..., dict[str, Any]]
) -> None:
    job_id = store.submit(parse_job(a_job()))[0].id

    def away(task: int) -> None:
        raise EngineAway("Ray does not answer any more")

    with pytest.raises(EngineAway):
        Executor(claims, stand_in).run_one(stand_in(before=away))
    assert store.job(job_id).state == "queued"
    assert "Ray does not answer" in store.logs(job_id)[-2].message
    assert Executor(claims, stand_in).run_one(stand_in())
    assert store.job(job_id).state == "succeeded"
