"""Batches, which are submitted whole or not at all, and jobs that come after others."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.client import Client
from convsvc.errors import JobError, TargetBusy
from convsvc.service.access.identity import LOOPBACK, Caller
from convsvc.service.access.tenants import Tenants
from convsvc.service.batching.rules import parse_batch
from convsvc.service.errors import IllegalTransition, KeyReused, NoSuchBatch, NoSuchJob, QuotaReached
from convsvc.service.store.batches import Batches
from convsvc.service.store.claims import Claim, Claims
from convsvc.service.store.jobs import Store
from convsvc.service.store.retention import Retention, purge
from convsvc.spec import Job, parse_job

TEMPLATE = {"source": {"format": "huggingface"}, "target": {"format": "mindspeed-llm", "path": "/out/{source}/{number}"}}
TWO_BY_TWO = {
    "name": "four",
    "job": TEMPLATE,
    "sources": [{"path": "/hf/a"}, {"path": "/hf/b"}],
    "targets": [{"tensor_parallel_size": 2}, {"tensor_parallel_size": 4, "path": "/wide/{source}"}],
}
TEAM = Caller("ci", "team-a", frozenset({"jobs:write"}), ("/",))


def a_job(target: str, **more: Any) -> Job:
    source, made = {"format": "huggingface", "path": "/in"}, {"format": "mindspeed-llm", "path": target}
    return parse_job({"source": source, "target": made, **more})


def taken(claims: Claims) -> Claim:
    claim = claims.claim()
    assert claim is not None
    claims.begin(claim)
    claims.planned(claim, "llama2", {}, [])
    return claim


def succeed(claims: Claims, **result: Any) -> str:
    claim = taken(claims)
    claims.succeed(claim, result)
    return claim.job_id


def fail(claims: Claims) -> str:
    claim = taken(claims)
    claims.fail(claim, {"type": "PlanError", "message": "it does not divide"})
    return claim.job_id


def test_every_source_is_converted_into_every_target() -> None:
    jobs = parse_batch(TWO_BY_TWO)[1]
    found = [(job.source.path, job.target.path, job.target.tensor_parallel_size) for job in jobs]  # type: ignore[attr-defined]
    assert found == [("/hf/a", "/out/a/0", 2), ("/hf/a", "/wide/a", 4), ("/hf/b", "/out/b/2", 2), ("/hf/b", "/wide/b", 4)]


def test_jobs_of_a_list_are_laid_over_what_they_share() -> None:
    shared = {**TEMPLATE, "options": {"verify": "full"}, "labels": {"team": "a"}}
    listed = [{"source": {"path": "/hf/a"}, "labels": {"n": "1"}}, {"source": {"path": "/hf/b"}, "options": {"dtype": "bf16"}}]
    first, second = parse_batch({"job": shared, "jobs": listed})[1]
    assert (first.options.verify, first.labels) == ("full", {"team": "a", "n": "1"})
    assert (second.options.verify, second.options.dtype, second.target.path) == ("full", "bf16", "/out/b/1")


WRONG = [
    ({"job": TEMPLATE}, "must be stated"),
    ({**TWO_BY_TWO, "jobs": [{}]}, "excludes"),
    ({**TWO_BY_TWO, "colour": 1}, "no such field"),
    ({**TWO_BY_TWO, "sources": []}, "sources"),
    ({"job": TEMPLATE, "sources": [{"path": "/a"}] * 1000, "targets": [{}, {}]}, "2000 jobs"),
    ({"job": {**TEMPLATE, "target": {"format": "dcp", "path": "/same"}}, "sources": [{"path": "/a"}, {"path": "/b"}]}, "the same target"),
    ({"job": TEMPLATE, "jobs": [{"source": {"path": "/a"}}, {"source": {}}]}, "job 1 of the batch"),
]


@pytest.mark.parametrize(("batch", "words"), WRONG)
def test_what_is_wrong_with_a_batch_is_told(batch: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_batch(batch)
    assert words in str(caught.value)


def test_a_batch_is_one_view_with_one_progress_and_one_report(store: Store, claims: Claims) -> None:
    batches, (spec, jobs) = Batches(store), parse_batch(TWO_BY_TWO)
    made, created = batches.submit(spec.name, jobs, caller=LOOPBACK)
    assert (created, made.name, made.state, made.states, made.jobs) == (True, "four", "running", {"queued": 4}, None)
    note = {"kind": "filled", "text": "padding"}
    first = succeed(claims, notes=[note], report="/out/report.json", already_done=True)
    fail(claims)
    half = batches.batch(made.id)
    assert (half.state, half.states, half.ended_at) == ("running", {"queued": 2, "succeeded": 1, "failed": 1}, None)
    succeed(claims)
    succeed(claims)
    whole = batches.batch(made.id)
    assert whole.state == "failed"
    assert whole.ended_at is not None
    assert whole.jobs is not None
    assert [job.target for job in whole.jobs] == [job.target.path for job in jobs]
    assert (whole.jobs[0].id, whole.jobs[0].notes, whole.jobs[0].report, whole.jobs[0].already_done) == (
        first,
        [note],
        "/out/report.json",
        True,
    )
    assert (whole.jobs[1].error or {})["message"] == "it does not divide"
    assert store.job(first).batch == made.id
    assert [one.id for one in batches.batches().batches] == [made.id]


def test_a_batch_of_which_a_job_failed_and_one_was_canceled_has_failed(store: Store, claims: Claims) -> None:
    batches, jobs = Batches(store), parse_batch(TWO_BY_TWO)[1][:2]
    made = batches.submit(None, jobs, caller=LOOPBACK)[0]
    fail(claims)
    batches.cancel(made.id)
    ended = batches.batch(made.id)
    assert (ended.state, ended.states) == ("failed", {"failed": 1, "canceled": 1})


def test_all_are_submitted_or_none(store: Store) -> None:
    batches, (_, jobs) = Batches(store), parse_batch(TWO_BY_TWO)
    store.submit(a_job("/out/b/2"))
    with pytest.raises(TargetBusy, match="job 2 of the batch"):
        batches.submit(None, jobs, caller=LOOPBACK)
    assert (len(store.jobs().jobs), batches.batches().batches) == (1, [])


def test_a_quota_is_for_all_of_them(store: Store) -> None:
    Tenants(store.database).create("team-a", roots=["/"], most_queued_jobs=3, actor="test")
    with pytest.raises(QuotaReached):
        Batches(store).submit(None, parse_batch(TWO_BY_TWO)[1], caller=TEAM)
    assert store.jobs().jobs == []
    first = store.submit(a_job("/a"), caller=TEAM)[0]
    store.submit(a_job("/b", after=[first.id]), caller=TEAM)
    store.submit(a_job("/c"), caller=TEAM)
    with pytest.raises(QuotaReached):  # one that is blocked counts as one that waits
        store.submit(a_job("/d"), caller=TEAM)


def test_the_same_key_is_the_same_batch(store: Store) -> None:
    batches, jobs = Batches(store), parse_batch(TWO_BY_TWO)[1]
    first = batches.submit(None, jobs, "key", caller=LOOPBACK)
    again = batches.submit(None, jobs, "key", caller=LOOPBACK)
    assert (first[1], again[1], again[0].id) == (True, False, first[0].id)
    assert len(store.jobs().jobs) == 4
    with pytest.raises(KeyReused):
        batches.submit(None, jobs[:2], "key", caller=LOOPBACK)


def test_another_tenants_batch_is_one_that_does_not_exist(store: Store) -> None:
    Tenants(store.database).create("team-a", roots=["/"], actor="test")
    batches = Batches(store)
    made = batches.submit(None, parse_batch(TWO_BY_TWO)[1], caller=TEAM)[0]
    assert [one.id for one in batches.batches(tenant="team-a").batches] == [made.id]
    assert batches.batches(tenant="team-b").batches == []
    for ask in (batches.batch, batches.cancel):
        with pytest.raises(NoSuchBatch):
            ask(made.id, tenant="team-b")
    assert batches.batch(made.id).states == {"queued": 4}


def test_a_job_comes_after_another_once_that_has_succeeded(store: Store, claims: Claims) -> None:
    first = store.submit(a_job("/a"))[0]
    second = store.submit(a_job("/b", after=[first.id[:20]], priority=9))[0]
    assert second.state == "blocked"
    waiting = store.job(second.id).waiting
    assert waiting is not None
    assert (waiting.reason, first.id in waiting.text) == ("after", True)
    claim = taken(claims)
    assert (claim.job_id, claims.claim()) == (first.id, None)
    claims.succeed(claim, {})
    assert store.job(second.id).state == "queued"
    assert succeed(claims) == second.id


def test_a_job_waits_for_all_that_it_comes_after(store: Store, claims: Claims) -> None:
    one, other = (store.submit(a_job(target))[0].id for target in ("/a", "/b"))
    last = store.submit(a_job("/c", after=[one, other, one]))[0].id
    succeed(claims)
    assert store.job(last).state == "blocked"
    succeed(claims)
    assert store.job(last).state == "queued"
    assert store.submit(a_job("/d", after=[one]))[0].state == "queued"  # that has succeeded already


def test_what_comes_after_a_job_that_failed_fails_with_a_word_and_so_does_what_comes_after_that(store: Store, claims: Claims) -> None:
    first = store.submit(a_job("/a"))[0].id
    second = store.submit(a_job("/b", after=[first]))[0].id
    third = store.submit(a_job("/c", after=[second]))[0].id
    fail(claims)
    for follower, before in ((second, first), (third, second)):
        job = store.job(follower)
        assert (job.state, (job.error or {})["message"]) == ("failed", f"job {before}, after which this one comes, failed")
    assert claims.claim() is None
    store.submit(a_job("/b"))  # their targets are free
    with pytest.raises(JobError, match="after which this one comes, failed"):
        store.submit(a_job("/e", after=[first]))


def test_what_comes_after_a_job_that_was_canceled_fails(store: Store) -> None:
    first = store.submit(a_job("/a"))[0].id
    second = store.submit(a_job("/b", after=[first]))[0].id
    store.cancel(first)
    assert "was canceled" in str(store.job(second).error)


def test_a_retry_goes_in_the_same_order(store: Store, claims: Claims) -> None:
    first = store.submit(a_job("/a"))[0].id
    second = store.submit(a_job("/b", after=[first]))[0].id
    fail(claims)
    with pytest.raises(IllegalTransition, match="after which this one comes"):
        store.retry(second)
    store.retry(first)
    assert store.retry(second).state == "blocked"
    succeed(claims)
    assert store.job(second).state == "queued"
    claims.fail(taken(claims), {"message": "no"})
    assert store.retry(second).state == "queued"
    assert purge(store.database, Retention(jobs_days=0)).jobs == 1  # the first is forgotten
    claims.fail(taken(claims), {"message": "no"})
    assert store.retry(second).state == "queued"


def test_a_blocked_job_can_be_canceled_and_does_not_come_back(store: Store, claims: Claims) -> None:
    first = store.submit(a_job("/a"))[0].id
    second = store.submit(a_job("/b", after=[first]))[0].id
    assert store.cancel(second).state == "canceled"
    succeed(claims)
    assert store.job(second).state == "canceled"


def test_only_jobs_that_the_tenant_has_can_come_before(store: Store) -> None:
    Tenants(store.database).create("team-a", roots=["/"], actor="test")
    others = store.submit(a_job("/a"))[0].id
    for after in (others, "nothere"):
        with pytest.raises(NoSuchJob):
            store.submit(a_job("/b", after=[after]), caller=TEAM)
    with pytest.raises(JobError, match="no job of a batch"):
        store.submit(a_job("/b", after=["#0"]))


def test_nothing_comes_after_a_job_that_has_failed_or_was_canceled(store: Store, claims: Claims) -> None:
    failed = store.submit(a_job("/a"))[0].id
    fail(claims)
    canceled = store.submit(a_job("/b"))[0].id
    store.cancel(canceled)
    for after, words in ((failed, "failed"), (canceled, "was canceled")):
        with pytest.raises(JobError, match=f"job {after}, after which this one comes, {words}"):
            store.submit(a_job("/c", after=[after]))


def test_jobs_of_a_batch_come_after_one_another(store: Store, claims: Claims) -> None:
    reshard = {"source": {"path": "/run"}, "target": {"format": "mindspeed-llm", "path": "/reshard"}}
    export = {
        "source": {"format": "mindspeed-llm", "path": "/reshard"},
        "target": {"format": "huggingface", "path": "/hf"},
        "after": ["#0"],
    }
    batches, jobs = Batches(store), parse_batch({"job": {"source": {"format": "mindspeed-llm"}}, "jobs": [reshard, export]})[1]
    made = batches.submit(None, jobs, caller=LOOPBACK)[0]
    assert made.states == {"queued": 1, "blocked": 1}
    view = batches.batch(made.id).jobs
    assert view is not None
    assert view[1].after == [view[0].id]
    succeed(claims)
    assert batches.batch(made.id).states == {"queued": 1, "succeeded": 1}
    backwards = parse_batch({"job": {"source": {"format": "mindspeed-llm"}}, "jobs": [{**reshard, "after": ["#1"]}, {**export}]})
    with pytest.raises(JobError, match="#1 is no job of a batch that comes before"):
        batches.submit(None, backwards[1], caller=LOOPBACK)


def test_a_canceled_batch_cancels_all_of_its_jobs_and_fails_none(store: Store, claims: Claims) -> None:
    batches, jobs = Batches(store), parse_batch(TWO_BY_TWO)[1]
    jobs = [*jobs, a_job("/last", after=["#0"])]
    made = batches.submit(None, jobs, caller=LOOPBACK)[0]
    claim = taken(claims)
    assert batches.cancel(made.id).states == {"canceled": 4, "canceling": 1}
    claims.stop(claim)
    assert batches.cancel(made.id).states == {"canceled": 5}
    assert batches.batch(made.id).state == "canceled"


def test_a_canceled_batch_that_waits_has_no_job_that_failed_for_another_s_sake(store: Store) -> None:
    jobs = [*parse_batch(TWO_BY_TWO)[1], a_job("/last", after=["#0"])]
    made = Batches(store).submit(None, jobs, caller=LOOPBACK)[0]
    assert Batches(store).cancel(made.id).states == {"canceled": 5}


def test_the_client_submits_shows_and_cancels_batches(client: Client) -> None:
    made = client.submit_batch(TWO_BY_TWO)
    assert [one.id for one in client.batches().batches] == [made.id]
    shown = client.batch(made.id)
    assert [job.state for job in shown.jobs or ()] == ["queued"] * 4
    assert client.cancel_batch(made.id).state == "canceled"
    assert client.wait_batch(made.id).states == {"canceled": 4}
    with pytest.raises(NoSuchBatch):
        client.batch("0" * 26)
    first = client.submit(a_job("/first"))
    assert client.submit(a_job("/second", after=[first.id])).state == "blocked"
