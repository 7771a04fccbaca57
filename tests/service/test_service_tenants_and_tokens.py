"""Tenants, tokens and the audit in the job store, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import delete

from convsvc.service.access.audit import Act, Audit
from convsvc.service.access.identity import Caller
from convsvc.service.access.tenants import Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.errors import NoSuchTenant, NoSuchToken, TenantInUse, WrongValue
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import JobRow
from convsvc.spec import parse_job

WHO = "the test"
CI = Caller("ci", "team-a", frozenset({"jobs:write"}))


@pytest.fixture
def tenants(database: Database) -> Tenants:
    tenants = Tenants(database)
    tenants.create("team-a", roots=["/shared/a"], requests_per_minute=7, actor=WHO)
    return tenants


@pytest.fixture
def tokens(tenants: Tenants) -> Tokens:
    return Tokens(tenants.database)


def test_a_token_is_found_with_its_tenants_roots_and_rate(tokens: Tokens) -> None:
    view, text = tokens.create("ci", "team-a", ["jobs:write", "jobs:read"], expires_at=None, actor=WHO)
    known = tokens.find(view.id)
    assert known is not None
    assert known.fits(text)
    assert not known.fits(text + " ")
    assert known.caller == Caller("ci", "team-a", frozenset({"jobs:read", "jobs:write"}), ("/shared/a",))
    assert (known.requests_per_minute, view.scopes) == (7, ("jobs:read", "jobs:write"))
    assert tokens.find("0123456789ab") is None


def test_only_tokens_that_let_somebody_in_are_usable_but_all_were_made(tokens: Tokens) -> None:
    assert (tokens.any(), tokens.usable()) == (False, 0)
    soon = datetime.now(timezone.utc) + timedelta(days=1)
    made = [tokens.create(name, "team-a", ["admin"], expires_at=soon, actor=WHO)[0] for name in ("one", "two")]
    assert (tokens.any(), tokens.usable()) == (True, 2)
    for view in made:
        assert tokens.revoke(view.id, actor=WHO).revoked_at == tokens.revoke(view.id, actor=WHO).revoked_at
    assert (tokens.any(), tokens.usable()) == (True, 0)
    assert [view.state(soon) for view in tokens.list()] == ["revoked", "revoked"]
    assert made[0].state(soon) == "expired"
    assert made[0].state(soon - timedelta(seconds=1)) == "usable"


@pytest.mark.parametrize(("scopes", "days"), [([], 1), (["root"], 1), (["admin"], -1)])
def test_a_token_that_cannot_be_is_refused(tokens: Tokens, scopes: list[str], days: int) -> None:
    with pytest.raises(WrongValue):
        tokens.create("ci", "team-a", scopes, expires_at=datetime.now(timezone.utc) + timedelta(days=days), actor=WHO)
    assert tokens.list() == []


def test_what_does_not_exist_is_told(tokens: Tokens, tenants: Tenants) -> None:
    with pytest.raises(NoSuchToken):
        tokens.revoke("0123456789ab", actor=WHO)
    with pytest.raises(NoSuchTenant):
        tokens.create("ci", "team-x", ["admin"], expires_at=None, actor=WHO)
    for ask in (tenants.get, lambda name: tenants.remove(name, actor=WHO), lambda name: tenants.set(name, actor=WHO)):
        with pytest.raises(NoSuchTenant):
            ask("team-x")


def test_a_tenants_tokens_go_with_it_and_its_jobs_stay(tenants: Tenants, tokens: Tokens, a_job: Callable[..., dict[str, Any]]) -> None:
    tokens.create("ci", "team-a", ["admin"], expires_at=None, actor=WHO)
    store = Store(tenants.database)
    job, _ = store.submit(parse_job(a_job()), caller=CI)
    with pytest.raises(TenantInUse, match="1 job"):
        tenants.remove("team-a", actor=WHO)
    store.cancel(job.id)
    assert tenants.remove("team-a", actor=WHO) == 1
    assert (tokens.list(), tenants.list()) == ([], [])
    assert store.job(job.id).tenant == "team-a"


def test_a_removed_tenants_name_is_not_given_to_another_while_its_jobs_are_kept(
    tenants: Tenants, tokens: Tokens, database: Database, a_job: Callable[..., dict[str, Any]]
) -> None:
    tenants.create("team-x", roots=["/shared"], actor=WHO)
    store = Store(database)
    job = store.submit(parse_job(a_job()), caller=Caller("t", "team-x", frozenset()))[0]
    store.cancel(job.id)
    tenants.remove("team-x", actor=WHO)
    with pytest.raises(TenantInUse, match="a new one would see what is its"):
        tenants.create("team-x", roots=["/other"], actor=WHO)
    with database.writing() as session:
        session.execute(delete(JobRow))
    assert tenants.create("team-x", roots=["/other"], actor=WHO).roots == ("/other",)


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_tokens_name_fits_its_column(tokens: Tokens, tenants: Tenants, name: str) -> None:
    tenants.create("team-y", actor=WHO)
    with pytest.raises(WrongValue, match="1 to 200 characters"):
        tokens.create(name, "team-y", ["jobs:read"], expires_at=None, actor=WHO)


def test_a_tenant_is_made_once(tenants: Tenants) -> None:
    with pytest.raises(TenantInUse):
        tenants.create("team-a", actor=WHO)


@pytest.mark.parametrize("name", ["", "-a", "A", "a/b", "../a", 65 * "a", "a b", "a\n", "ä"])
def test_a_tenants_name_is_plain(tenants: Tenants, name: str) -> None:
    with pytest.raises(WrongValue):
        tenants.create(name, actor=WHO)


def test_every_wrong_value_of_a_tenant_is_told_at_once(tenants: Tenants) -> None:
    with pytest.raises(WrongValue) as caught:
        tenants.set("team-a", roots=["here", "/there"], weight=0, most_running_jobs=-1, most_queued_jobs=2**31, colour="red", actor=WHO)
    assert len(caught.value.facts) == 5
    assert tenants.get("team-a").roots == ("/shared/a",)


@pytest.mark.parametrize("weight", [float("inf"), float("nan"), -1.0])
def test_a_weight_is_a_number_that_a_share_can_be_reckoned_with(tenants: Tenants, weight: float) -> None:
    with pytest.raises(WrongValue):
        tenants.set("team-a", weight=weight, actor=WHO)


def test_the_last_use_of_many_at_once_is_written_without_one_failing(tokens: Tokens) -> None:
    view, _ = tokens.create("ci", "team-a", ["admin"], expires_at=None, actor=WHO)
    threads = [threading.Thread(target=tokens.used, args=(view.id,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = tokens.list()[0].last_used_at
    assert used is not None
    assert abs(datetime.now(timezone.utc) - used) < timedelta(minutes=1)


def test_a_deed_is_written_down_as_it_ended(database: Database) -> None:
    audit = Audit(database)
    with audit.of(Act(CI, "cancel", "2001:db8::7", "j")):
        pass
    with pytest.raises(NoSuchToken), audit.of(Act(CI, "retry", None, "j")):
        raise NoSuchToken("it is gone")
    page = audit.page(limit=1, cursor=None, tenant="team-a", action=None, job_id="j")
    assert [(entry.action, entry.outcome, entry.address) for entry in page.entries] == [("retry", "no-such-token", None)]
    page = audit.page(limit=5, cursor=page.next_cursor, tenant=None, action="cancel", job_id=None)
    assert [(entry.actor, entry.outcome, entry.address) for entry in page.entries] == [("ci", "ok", "2001:db8::7")]
    assert page.next_cursor is None
