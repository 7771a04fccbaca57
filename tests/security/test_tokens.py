"""Who is let in, and what he may see and do."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from convsvc.service.access.identity import SCOPES
from convsvc.service.access.tokens import digest_of, id_of, new_token
from convsvc.service.app import create_app
from convsvc.service.settings import Settings
from convsvc.service.store.database import Database
from tests.tiny_checkpoints import write_llama

OPEN = {"/livez", "/readyz"}
ABSENT = "01arz3ndektsv4rrffq69g5fav"
KINDS = ("job", "batch", "watch")
IDS = tuple(f"{kind}_id" for kind in KINDS)


def protected_routes() -> list[tuple[str, str, list[str]]]:
    """(method, path, scopes) of every route that asks for a token, as its own document says."""
    paths = create_app(Settings(database_url="sqlite://")).openapi()["paths"]
    found = [(method.upper(), path, operation) for path, operations in paths.items() for method, operation in operations.items()]
    return [(method, path, operation["security"][0]["token"]) for method, path, operation in found if path not in OPEN]


ROUTES = protected_routes()
ROUTES_OF_ONE = [(method, path) for method, path, _ in ROUTES if "{" in path]
every_route = pytest.mark.parametrize(("method", "path", "scopes"), ROUTES, ids=[f"{method} {path}" for method, path, _ in ROUTES])
every_route_of_one = pytest.mark.parametrize(("method", "path"), ROUTES_OF_ONE, ids=[f"{method} {path}" for method, path in ROUTES_OF_ONE])


def bodies(service: Any, tenant: str = "team-a", target: str = "out") -> dict[str, Any]:
    """What is posted, by the route that makes one."""
    job = service.job(tenant, target)
    template = service.job(tenant, f"{target}-{{iteration}}")
    del template["source"]["path"]
    watch = {"directory": str(service.shared / tenant / "run"), "job": template}
    return {"/v1/jobs": job, "/v1/plans": job, "/v1/batches": {"jobs": [job]}, "/v1/watches": watch}


def one_of(service: Any, path: str, token: Any, tenant: str = "team-a") -> str:
    """The id of a new one of the kind that the route is about."""
    collection = next(f"/v1/{kind}{'es' if kind.endswith('ch') else 's'}" for kind in KINDS if f"{{{kind}_id}}" in path)
    answer = service.request("POST", collection, token.text, json=bodies(service, tenant, "another")[collection])
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def asked(service: Any, method: str, path: str, token: str | None, one: str = ABSENT) -> httpx.Response:
    body = {"json": bodies(service)[path]} if method == "POST" and "{" not in path else {}
    if path == "/v1/inspect":
        path += f"?path={write_llama(service.shared / 'team-a' / 'looked-at')}"
    answer: httpx.Response = service.request(method, path.format_map(dict.fromkeys(IDS, one)), token, **body)
    return answer


def test_the_document_names_every_route_that_there_is_and_all_but_the_probes_ask_for_a_token() -> None:
    assert {("POST", "/v1/jobs"), ("GET", "/v1/jobs/{job_id}/events"), ("POST", "/v1/plans"), ("GET", "/v1/audit")} <= {
        route[:2] for route in ROUTES
    }
    assert {name for _, path in ROUTES_OF_ONE for name in IDS if name in path} == set(IDS)


@every_route
def test_without_a_token_every_route_answers_401_and_says_how_to_come_in(service: Any, method: str, path: str, scopes: list[str]) -> None:
    service.token()
    answer = asked(service, method, path, None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["kind"] == "Unauthorized"


@every_route
def test_a_token_with_every_scope_but_the_one_that_is_needed_is_answered_403_with_its_name(
    service: Any, method: str, path: str, scopes: list[str]
) -> None:
    others = [scope for scope in SCOPES if scope not in (*scopes, "admin")]
    answer = asked(service, method, path, service.token("team-a", *others).text)
    if not scopes:
        assert answer.status_code == 200
        return
    assert (answer.status_code, answer.json()["details"]["needs"]) == (403, scopes[0])


@every_route
def test_an_administrator_may_everything(service: Any, method: str, path: str, scopes: list[str]) -> None:
    one = one_of(service, path, service.token()) if "{" in path else ABSENT
    path = path.replace("{job_id}/events", "{job_id}")  # the stream of a job that waits would not end
    assert asked(service, method, path, service.token("team-a", "admin").text, one).status_code in (200, 201, 202, 409)


def test_the_document_asks_for_a_token_too(service: Any) -> None:
    token = service.token("team-a", "jobs:read")
    assert service.request("GET", "/openapi.json").status_code == 401
    assert service.request("GET", "/openapi.json", token.text).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_of_the_service_loads_scripts_of_strangers(service: Any, path: str) -> None:
    assert service.request("GET", path, service.token("team-a", "admin").text).status_code == 404


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer cvs_",
        "Bearer cvs_0123456789ab_" + 64 * "0",
        "Bearer ' OR 1=1 --",
        "Bearer " + 5000 * "x",
        "Basic dXNlcjpwYXNzd29yZA==",
        "bearer\tcvs",
        b"Bearer \xff\xfe",
    ],
    ids=lambda header: repr(header[:30]),
)
def test_what_is_no_token_is_answered_401_without_being_repeated(service: Any, header: str | bytes) -> None:
    service.token()
    answer = httpx.get(f"{service.url}/jobs", headers=[(b"Authorization", header if isinstance(header, bytes) else header.encode())])
    assert answer.status_code == 401
    assert "0000000" not in answer.text


def test_a_known_id_with_another_secret_is_an_unknown_token(service: Any) -> None:
    token = service.token()
    forged = token.text[:-1] + ("0" if token.text[-1] != "0" else "1")
    assert service.request("GET", "/jobs", token.text).status_code == 200  # so that it is remembered
    assert service.request("GET", "/jobs", forged).status_code == 401
    assert service.request("GET", "/jobs", token.text.upper()).status_code == 401
    assert service.request("GET", "/jobs", digest_of(token.text)).status_code == 401


def test_an_expired_token_is_told_that_it_is(service: Any) -> None:
    answer = service.request("GET", "/jobs", service.expired_token().text)
    assert (answer.status_code, answer.json()["detail"]) == (401, "the token is no good: expired token")


def test_a_token_ends_at_its_time_though_it_was_just_used(service: Any) -> None:
    token = service.token(expires_at=datetime.now(timezone.utc) + timedelta(seconds=3))
    assert service.request("GET", "/jobs", token.text).status_code == 200
    assert until_refused(service, token.text) < 5


def test_a_revoked_token_is_refused_within_five_seconds_by_a_service_with_the_settings_of_every_day(start: Any, tmp_path: Path) -> None:
    with start(token_cache_s=Settings().token_cache_s) as service:
        service.tenants.create("team-a", actor="the test")
        token = service.token()
        assert service.request("GET", "/jobs", token.text).status_code == 200
        service.tokens.revoke(token.id, actor="the test")
        assert until_refused(service, token.text) < 5
        assert "revoked" in service.request("GET", "/jobs", token.text).json()["detail"]


def test_an_event_stream_ends_when_its_token_is_revoked(service: Any) -> None:
    token = service.token()
    job_id = service.submitted(token)
    headers = {"Authorization": f"Bearer {token.text}"}
    with httpx.stream("GET", f"{service.url}/jobs/{job_id}/events", headers=headers, timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("id:")
        service.tokens.revoke(token.id, actor="the test")
        assert list(lines)[-1] == ""  # and no end of the job, which still waits
    assert service.store.job(job_id).state == "queued"


def until_refused(service: Any, token: str) -> float:
    began = time.monotonic()
    while service.request("GET", "/jobs", token).status_code != 401:
        assert time.monotonic() - began < 10, "it is still let in after 10 s"
        time.sleep(0.05)
    return time.monotonic() - began


@every_route_of_one
def test_what_is_another_tenants_does_not_exist(service: Any, method: str, path: str) -> None:
    other = service.token("team-b")
    theirs = one_of(service, path, other, "team-b")
    mine = service.token("team-a")
    answer, absent = asked(service, method, path, mine.text, theirs), asked(service, method, path, mine.text, ABSENT)
    assert (answer.status_code, absent.status_code) == (404, 404)
    assert answer.text.replace(theirs, "ID") == absent.text.replace(ABSENT, "ID")
    assert {name for name, _ in answer.headers.items()} == {name for name, _ in absent.headers.items()}
    whole = path[: path.index("}") + 1]
    assert asked(service, "GET", whole, other.text, theirs).status_code == 200


def test_a_list_holds_ones_own_tenants_jobs_and_all_for_an_administrator(service: Any) -> None:
    mine, theirs = service.submitted(service.token("team-a")), service.submitted(service.token("team-b"), "team-b")
    listed = {
        name: [job["id"] for job in service.request("GET", "/jobs", token.text).json()["jobs"]]
        for name, token in (("a", service.token("team-a")), ("b", service.token("team-b")), ("admin", service.token("team-a", "admin")))
    }
    assert listed == {"a": [mine], "b": [theirs], "admin": [theirs, mine]}


def test_a_cursor_of_another_tenants_job_shows_nothing_of_it(service: Any) -> None:
    mine, theirs = service.submitted(service.token("team-a")), service.submitted(service.token("team-b"), "team-b")
    page = service.request("GET", f"/jobs?cursor={theirs}", service.token("team-a").text).json()
    assert [job["id"] for job in page["jobs"]] == [mine]


def test_the_same_idempotency_key_of_two_tenants_makes_two_jobs(service: Any) -> None:
    key = {"Idempotency-Key": "k"}
    answers = [
        service.request("POST", "/jobs", service.token(tenant).text, json=service.job(tenant), headers=key)
        for tenant in ("team-a", "team-b")
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_a_job_knows_who_submitted_it(service: Any) -> None:
    job = service.store.job(service.submitted(service.token(name="nightly")))
    assert (job.tenant, job.submitted_by) == ("team-a", "nightly")


def test_readyz_shows_its_inside_only_to_those_who_may_come_in(service: Any) -> None:
    token = service.token("team-a", "jobs:read")
    stranger, known = service.request("GET", "/readyz"), service.request("GET", "/readyz", token.text)
    assert (stranger.status_code, known.status_code) == (503, 503)
    assert (stranger.json()["facts"], stranger.json()["details"]) == ([], {})
    assert known.json()["facts"] == ["executor: no executor is running"]
    assert service.request("GET", "/readyz", "cvs_wrong").json()["facts"] == []
    assert service.request("GET", "/livez").json() == {"status": "ok"}


def test_of_a_token_only_the_sha_256_is_in_the_database(service: Any, tmp_path: Path) -> None:
    token = service.token()
    service.request("GET", "/jobs", token.text)
    with service.database.writing() as session:
        session.connection().exec_driver_sql("PRAGMA user_version")  # the log is written before this begins
    stored = b"".join(file.read_bytes() for file in (tmp_path / "state").iterdir())
    assert digest_of(token.text).encode() in stored
    assert token.text.encode() not in stored
    assert token.text.rpartition("_")[2].encode() not in stored


def test_other_users_of_the_machine_do_not_reach_the_job_store(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/home/convsvc.db")
    database.migrate()
    database.close()
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0


def test_tokens_are_random_and_have_256_bits() -> None:
    texts = {new_token()[1] for _ in range(1000)}
    assert len({text.rpartition("_")[2] for text in texts}) == 1000
    assert all(re.fullmatch(r"cvs_[0-9a-f]{12}_[0-9a-f]{64}", text) and id_of(text) for text in texts)


def test_the_last_use_is_written_at_most_once_a_minute(service: Any) -> None:
    token = service.token()
    for _ in range(3):
        service.request("GET", "/jobs", token.text)
    first = service.tokens.list()[0].last_used_at
    assert first is not None
    service.tokens.used(token.id)
    assert service.tokens.list()[0].last_used_at == first
    with service.database.writing() as session:
        session.connection().exec_driver_sql("UPDATE tokens SET last_used_at = '2020-01-01 00:00:00'")
    service.tokens.used(token.id)
    assert service.tokens.list()[0].last_used_at > first
