"""The clients and the command line before a service that asks for tokens: what they see, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.cli.main import main
from convsvc.client import Client
from convsvc.service.errors import Forbidden, NoSuchJob, QuotaReached, Unauthorized

Captured = pytest.CaptureFixture[str]


def client(service: Any, token: Any, **options: Any) -> Client:
    return Client(service.url, token.text if token else None, **options)


def test_each_tenant_lists_its_own_jobs_and_an_admin_those_he_asks_for(service: Any) -> None:
    tokens = {tenant: service.token(tenant) for tenant in ("team-a", "team-b")}
    ids = {tenant: service.submitted(token, tenant) for tenant, token in tokens.items()}
    with client(service, tokens["team-a"]) as mine:
        assert [job.id for job in mine.jobs().jobs] == [job.id for job in mine.jobs(tenant="team-a").jobs] == [ids["team-a"]]
        with pytest.raises(Forbidden, match="team-b"):
            mine.jobs(tenant="team-b")
        with pytest.raises(Forbidden):
            mine.jobs(tenant="no-such-team")
        with pytest.raises(NoSuchJob):
            mine.job(ids["team-b"])
    with client(service, service.token("team-a", "admin", name="root")) as admin:
        assert {job.id for job in admin.jobs().jobs} == set(ids.values())
        assert [(job.id, job.tenant) for job in admin.jobs(tenant="team-b").jobs] == [(ids["team-b"], "team-b")]


def test_a_stream_whose_token_is_revoked_ends_with_the_refusal(service: Any) -> None:
    token = service.token()
    job_id = service.submitted(token)
    with client(service, token) as mine:
        events = mine.events(job_id)
        assert next(events).kind == "submitted"
        service.tokens.revoke(token.id, actor="the test")
        with pytest.raises(Unauthorized):
            list(events)


@pytest.mark.parametrize("given", [None, "cvs_000000000000_" + "0" * 64], ids=["none", "a wrong one"])
def test_a_refused_command_says_how_to_get_a_token(
    service: Any, given: str | None, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    service.token()
    monkeypatch.delenv("CONVSVC_TOKEN", raising=False)
    if given:
        monkeypatch.setenv("CONVSVC_TOKEN", given)
    assert main(["jobs", "--url", service.url]) == 8
    told = capsys.readouterr().err
    assert told.startswith("convsvc: not authenticated: ")
    assert "convsvc token create --name NAME --tenant TENANT" in told
    assert ("none was given" in told) == (given is None)
    assert given is None or given not in told


def test_a_command_that_the_token_may_not_says_which_scope_is_missing(
    service: Any, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    reader = service.token("team-a", "jobs:read")
    monkeypatch.setenv("CONVSVC_TOKEN", reader.text)
    assert main(["cancel", service.submitted(service.token(name="writer")), "--url", service.url]) == 8
    told = capsys.readouterr().err
    assert "needs the scope jobs:write" in told
    assert "do: ask an administrator for: convsvc token create" in told


def test_a_full_queue_says_when_there_is_room_again(service: Any) -> None:
    token = service.token()
    service.tenants.set("team-a", actor="the test", most_queued_jobs=1)
    service.submitted(token)
    with client(service, token, retry_for_s=0) as mine, pytest.raises(QuotaReached) as full:
        mine.submit(service.job(target="second"))
    assert full.value.details["retry_after_s"] > 0
