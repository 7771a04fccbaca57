"""The cluster as each may see it, and the administrator's page."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from convsvc.service.cluster_views import ExecutorView
from convsvc.service.console.cluster_page import health_of
from convsvc.service.executor.presence import Presence
from convsvc.service.store.claims import Claims
from tests.console.conftest import Console, Visitor
from tests.console.test_console_pages import EVIL, NOON, Page


@pytest.fixture
def admin(service: Console, visit: Callable[..., Visitor]) -> Visitor:
    return visit(service.token("team-a", "admin", name=f"boss {EVIL}"[:200]).text)


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ([], ["bad"]),
        (["busy", "idle"], ["good"]),
        (["away"], ["bad"]),
        (["silent", "left"], ["bad", "warn"]),
        (["away", "silent", "busy"], ["bad", "warn", "good"]),
    ],
)
def test_health_is_said_in_words_the_worst_first(states: list[str], told: list[str]) -> None:
    executors = [ExecutorView(state, state, "", "", None, NOON, NOON) for state in states]
    assert [how for how, _, _ in health_of(executors, 0)] == told
    assert len(health_of(executors, 3)) == len(told) + 1


def test_a_tenant_sees_who_works_and_of_the_queue_its_own_part(service: Console, visitor: Visitor, admin: Visitor) -> None:
    Claims(service.database, f"executor {EVIL}"[:200], engine="inline").heartbeat(Presence().as_dict())
    theirs = service.job_of("team-b")
    mine, all_of_it = Page(visitor.get("/cluster").text), Page(admin.get("/cluster").text)
    assert mine.faults() == all_of_it.faults() == []
    assert EVIL[:100] in mine.text
    assert ("team-b" in mine.text, "team-b" in all_of_it.text, theirs in mine.text) == (False, True, False)
    assert "%" in all_of_it.text.partition("Queue")[2]


def test_the_administrators_page_has_tenants_tokens_and_the_audit_but_no_secret(service: Console, admin: Visitor) -> None:
    token = service.token("team-b", name=EVIL[:200])
    answer = admin.get("/admin")
    page = Page(answer.text)
    assert page.faults() == []
    assert EVIL[:200] in page.text
    assert token.id in answer.text
    assert token.text not in answer.text
    assert "token.create" in page.text
    assert Page(admin.get("/admin?action=authenticate&tenant=%3Cb%3E").text).faults() == []


def test_a_revoked_token_is_shut_out_and_the_audit_names_who_did_it(
    service: Console, admin: Visitor, visit: Callable[..., Visitor]
) -> None:
    token = service.token("team-b")
    assert admin.post(f"/admin/tokens/{token.id}/revoke").status_code == 303
    assert visit().post("/login", {"token": token.text}).status_code == 401
    entry = service.request("GET", "/audit?action=token.revoke", service.token("team-a", "admin").text).json()["entries"][0]
    assert (entry["actor"][:4], entry["tenant"]) == ("boss", "team-b")
    assert admin.post("/admin/tokens/000000000000/revoke").status_code == 404


def test_quotas_are_changed_and_what_cannot_be_is_refused(service: Console, admin: Visitor) -> None:
    said = {"most_running_jobs": "3", "most_queued_jobs": "", "weight": "2.5"}
    assert admin.post("/admin/tenants/team-b/quotas", said).status_code == 303
    tenant = service.tenants.get("team-b")
    assert (tenant.most_running_jobs, tenant.most_queued_jobs, tenant.weight) == (3, None, 2.5)
    for odd in (
        {"weight": "0"},
        {"weight": "nan"},
        {"weight": "inf"},
        {"weight": "x"},
        {"most_running_jobs": "-1"},
        {"most_running_jobs": "9" * 12},
    ):
        assert admin.post("/admin/tenants/team-b/quotas", odd).status_code == 422, odd
    assert service.tenants.get("team-b") == tenant
    assert admin.post("/admin/tenants/no-such/quotas", {"weight": "1"}).status_code == 404
    assert service.tenants.get("team-b").roots == tenant.roots


def test_roots_are_not_changed_from_a_browser(service: Console, admin: Visitor) -> None:
    before = service.tenants.get("team-b").roots
    admin.post("/admin/tenants/team-b/quotas", {"roots": "/", "weight": "1"})
    assert service.tenants.get("team-b").roots == before
    assert not re.search(r'name="roots"', admin.get("/admin").text)
