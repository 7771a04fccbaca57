"""Who did what, when, and what came of it, is written down."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest


def entries(service: Any, **wanted: str) -> list[dict[str, Any]]:
    """As an administrator reads them, oldest first."""
    answer = service.request("GET", "/audit", service.token("team-b", "admin", name="reader").text, params=wanted)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["entries"][::-1]
    return found


def told(entry: dict[str, Any]) -> tuple[str, ...]:
    return entry["actor"], entry["tenant"], entry["action"], entry["outcome"]


def test_what_is_done_to_a_job_is_written_down_with_who_and_from_where(service: Any) -> None:
    token = service.token(name="nightly")
    job_id = service.submitted(token)
    for verb in ("cancel", "retry"):
        assert service.request("POST", f"/jobs/{job_id}/{verb}", token.text).status_code == 202
    found = entries(service, job=job_id)
    assert [told(entry) for entry in found] == [("nightly", "team-a", verb, "ok") for verb in ("submit", "cancel", "retry")]
    assert {entry["address"] for entry in found} == {"127.0.0.1"}
    at = datetime.fromisoformat(found[0]["at"])
    assert abs(datetime.now(timezone.utc) - at) < timedelta(minutes=1)


def test_what_was_refused_is_written_down_as_what_it_was_refused_for(service: Any) -> None:
    token, other = service.token(name="ci"), service.token("team-b")
    theirs = service.submitted(other, "team-b")
    service.submitted(token)
    key = {"headers": {"Idempotency-Key": "k"}}
    service.request("POST", "/jobs", token.text, json=service.job())
    service.request("POST", "/jobs", token.text, json=service.job("team-b"))
    service.request("POST", "/jobs", token.text, json=service.job(target="two"), **key)
    service.request("POST", "/jobs", token.text, json=service.job(target="two"), **key)
    service.request("POST", f"/jobs/{theirs}/cancel", token.text)
    service.request("POST", "/plans", token.text, json=service.job("team-b"))
    service.request("POST", "/plans", token.text, json=service.job())
    assert [(entry["action"], entry["outcome"]) for entry in entries(service, tenant="team-a")][2:] == [
        ("submit", "ok"),
        ("submit", "target-busy"),
        ("submit", "path-refused"),
        ("submit", "ok"),
        ("submit", "repeated"),
        ("cancel", "no-such-job"),
        ("plan", "path-refused"),
        ("plan", "ok"),
    ]


def test_tokens_that_are_no_good_are_written_down_by_their_id_alone(service: Any) -> None:
    token, expired = service.token(name="old"), service.expired_token()
    service.tokens.revoke(token.id, actor="the test")
    secrets = [token.text, expired.text, "cvs_0123456789ab_" + 64 * "7"]
    for text in secrets:
        assert service.request("GET", "/jobs", text).status_code == 401
    service.request("GET", "/jobs")
    found = entries(service, action="authenticate")
    assert [(entry["actor"], entry["tenant"], entry["outcome"], entry["detail"]) for entry in found] == [
        ("old", "team-a", "revoked token", {"path": "/jobs", "token": token.id}),
        ("ci", "team-a", "expired token", {"path": "/jobs", "token": expired.id}),
        ("nobody", "nobody", "unknown token", {"path": "/jobs", "token": "0123456789ab"}),
    ]
    assert not any(text.rpartition("_")[2] in str(found) for text in secrets)


def test_a_missing_scope_is_written_down(service: Any) -> None:
    service.request("POST", "/jobs", service.token("team-a", "jobs:read", name="reader").text, json=service.job())
    (entry,) = entries(service, action="authenticate")
    assert (*told(entry), entry["detail"]["needs"]) == ("reader", "team-a", "authenticate", "forbidden", "jobs:write")


def test_a_flood_of_bad_tokens_does_not_fill_the_database(start: Any) -> None:
    with start(refusals_per_minute=60_000) as service:
        service.tenants.create("team-b", actor="the test")
        service.token("team-b")
        began = time.monotonic()
        with httpx.Client(base_url=service.url, headers={"Authorization": "Bearer cvs_nonsense"}, timeout=20) as http:
            assert {http.get("/jobs").status_code for _ in range(200)} == {401}
        seconds = time.monotonic() - began
        assert len(entries(service, action="authenticate", limit="500")) <= 61 + seconds


def test_changes_of_tenants_and_tokens_are_written_down_with_what_changed(service: Any) -> None:
    service.tenants.create("team-c", roots=["/shared/c"], actor="cli:ann")
    service.tenants.set("team-c", most_running_jobs=3, actor="cli:bob")
    service.tokens.revoke(service.token("team-c").id, actor="cli:bob")
    service.tenants.remove("team-c", actor="cli:ann")
    found = entries(service, tenant="team-c")
    assert [(entry["actor"], entry["action"]) for entry in found] == [
        ("cli:ann", "tenant.create"),
        ("cli:bob", "tenant.set"),
        ("the test", "token.create"),
        ("cli:bob", "token.revoke"),
        ("cli:ann", "tenant.remove"),
    ]
    assert found[1]["detail"] == {"most_running_jobs": 3}
    assert found[0]["address"] is None


def test_a_loopback_caller_without_a_token_is_written_down_as_such(start: Any) -> None:
    with start() as service:
        job_id = service.request("POST", "/jobs", json=service.job()).json()["id"]
        (entry,) = service.request("GET", "/audit", params={"job": job_id}).json()["entries"]
    assert told(entry) == ("loopback", "default", "submit", "ok")


def test_the_audit_is_read_in_pages_newest_first(service: Any) -> None:
    token = service.token("team-a", "admin").text
    for number in range(5):
        service.request("POST", "/plans", token, json=service.job(target=f"t{number}"))
    seen: list[int] = []
    cursor: dict[str, Any] = {}
    while True:
        page = service.request("GET", "/audit", token, params={"action": "plan", "limit": 2, **cursor}).json()
        seen += [entry["id"] for entry in page["entries"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert (len(seen), seen) == (5, sorted(seen, reverse=True))


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 501}, {"cursor": "x"}, {"cursor": 2**63}, {"tenant": 65 * "x"}])
def test_a_page_that_cannot_be_is_a_422(service: Any, wrong: dict[str, Any]) -> None:
    assert service.request("GET", "/audit", service.token("team-a", "admin").text, params=wrong).status_code == 422
