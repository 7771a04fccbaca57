"""Who gets into the console, and what keeps others out: on every route that it has."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest
from fastapi.routing import APIRoute

from convsvc.service.console.console_route import POLICY, ConsoleRoute
from convsvc.service.console.router import ROUTERS
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.spec import parse_job
from tests.console.conftest import Console, Start, Token, Visitor

ROUTES = [(method, route.path) for router in ROUTERS for route in router.routes if isinstance(route, APIRoute) for method in route.methods]
OPEN = {"/ui", "/ui/", "/ui/login", "/ui/logout", "/ui/language", "/ui/static/{name:path}", "/ui/{rest:path}"}
GUARDED = [(method, path) for method, path in ROUTES if path not in OPEN]
POSTS = [path for method, path in ROUTES if method == "POST"]
ADMINS = {path for _, path in GUARDED if path.startswith("/ui/admin")}
# Who writes needs the scope; the rest of what is guarded is for who reads.
WRITING = r"/ui/(new|browse|bulk|jobs/\{job_id\}/(cancel|retry)|watches/new|watches/\{watch_id\}/remove|batches/\{batch_id\}/cancel)"
WRITERS = {path for _, path in GUARDED if re.match(WRITING, path)}
OF_JOBS = [(method, path) for method, path in GUARDED if "{job_id}" in path]
ids = "{0[0]} {0[1]}".format


def filled(path: str, job: str = "0" * 26) -> str:
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: {"number": "0"}.get(found[1], job if found[1].endswith("_id") else "x"), path)


def test_every_route_is_the_consoles_kind_and_there_are_some() -> None:
    assert all(isinstance(route, ConsoleRoute) for router in ROUTERS for route in router.routes)
    assert len(GUARDED) >= 7
    assert all(method in {"GET", "POST"} for method, _ in ROUTES)


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=map(ids, GUARDED))
def test_without_a_token_a_route_leads_to_the_login_or_refuses(
    service: Console, token: Token, visit: Callable[..., Visitor], method: str, path: str
) -> None:
    visitor = visit()
    answer = visitor.get(filled(path)[3:]) if method == "GET" else visitor.post(filled(path)[3:])
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/ui/login?next=%2Fui")
    told = httpx.request(
        method, service.url + filled(path), headers={"Accept": "text/event-stream"}, data={"csrf": "x"} if method == "POST" else None
    )
    assert told.status_code in ((401,) if method == "GET" else (403,))


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=map(ids, GUARDED))
def test_a_bearer_header_or_a_cookie_of_anothers_name_opens_no_page(service: Console, token: Token, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {token.text}", "Cookie": f"session={token.text}"}
    answer = httpx.request(method, service.url + filled(path), headers=headers)
    assert answer.status_code == (303 if method == "GET" else 403)


def test_the_sessions_cookie_opens_nothing_but_the_console(service: Console, token: Token) -> None:
    for path in ("/jobs", "/v1/jobs", "/whoami", "/audit"):
        assert httpx.get(service.url + path, headers={"Cookie": f"convsvc_session={token.text}"}).status_code == 401


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("fault", ["no word", "a wrong word", "another visitor's word", "another origin", "another site", "odd letters"])
def test_a_form_that_no_page_of_the_session_has_sent_is_refused(
    visit: Callable[..., Visitor], visitor: Visitor, path: str, fault: str
) -> None:
    word, headers = visitor.csrf_of_session(), {}
    if fault == "no word":
        word = ""
    elif fault == "a wrong word":
        word = "0" * 64
    elif fault == "another visitor's word":
        word = visit().csrf()
    elif fault == "another origin":
        headers = {"Origin": "https://elsewhere.example"}
    elif fault == "another site":
        headers = {"Sec-Fetch-Site": "same-site"}
    else:
        word = "ключ"
    answer = visitor.http.post(filled(path), data={"csrf": word}, headers=headers)
    assert answer.status_code == 403
    assert "not sent by a page of this console" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=map(ids, ROUTES))
def test_every_answer_is_bound_by_the_policy(visitor: Visitor, method: str, path: str) -> None:
    answer = visitor.get(filled(path)[3:]) if method == "GET" else visitor.post(filled(path)[3:])
    if path == "/ui/static/{name:path}":
        answer = visitor.get("/static/console.js")
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == ("no-store" if "static" not in path else "public, max-age=31536000, immutable")


@pytest.mark.parametrize(("method", "path"), OF_JOBS, ids=map(ids, OF_JOBS))
def test_another_tenants_job_is_one_that_does_not_exist(service: Console, visitor: Visitor, method: str, path: str) -> None:
    theirs = service.job_of("team-b")
    answer = visitor.get(filled(path, theirs)[3:]) if method == "GET" else visitor.post(filled(path, theirs)[3:])
    missing = visitor.get(filled(path)[3:]) if method == "GET" else visitor.post(filled(path)[3:])
    assert (answer.status_code, missing.status_code) == (404, 404)
    assert "team-b" not in answer.text
    assert service.store.job(theirs).state == "queued"


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=map(ids, GUARDED))
@pytest.mark.parametrize("scope", ["jobs:read", "jobs:write", "metrics"])
def test_a_token_opens_what_its_scopes_allow(service: Console, visit: Callable[..., Visitor], method: str, path: str, scope: str) -> None:
    job = service.job_of()
    visitor = visit(service.token("team-a", scope).text)
    needed = "admin" if path in ADMINS else "jobs:write" if path in WRITERS else "jobs:read"
    if path.endswith("/stream"):
        if scope != needed:
            assert visitor.get(filled(path, job)[3:]).status_code == 403
        return
    answer = visitor.get(filled(path, job)[3:]) if method == "GET" else visitor.post(filled(path, job)[3:])
    assert (answer.status_code == 403) == (scope != needed), answer.text
    assert service.store.job(job).state == ("canceled" if path == "/ui/jobs/{job_id}/cancel" and scope == needed else "queued")


def test_another_tenants_task_is_one_that_does_not_exist(service: Console, visitor: Visitor) -> None:
    spec = service.job("team-b", "with-tasks", priority=100)
    theirs = service.store.submit(parse_job(spec), caller=service.caller("team-b"))[0].id
    claims = Claims(service.database, "executor-1", engine="inline")
    while (claim := claims.claim()) is not None and claim.job_id != theirs:
        pass
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(0, "a secret layer", 100)])
    answer = visitor.get(f"/jobs/{theirs}/tasks/0")
    assert (answer.status_code, "secret" in answer.text) == (404, False)


def test_a_list_has_the_tenants_jobs_and_an_administrators_all(service: Console, visit: Callable[..., Visitor]) -> None:
    mine, theirs = service.job_of(), service.job_of("team-b")
    reader, admin = visit(service.token("team-a").text), visit(service.token("team-a", "admin").text)
    assert (mine in reader.get("/jobs").text, theirs in reader.get("/jobs").text) == (True, False)
    assert (mine in admin.get("/jobs").text, theirs in admin.get("/jobs").text) == (True, True)
    assert (mine in admin.get("/jobs?tenant=team-b").text, theirs in admin.get("/jobs?tenant=team-b").text) == (False, True)
    assert reader.get("/jobs?tenant=team-b").status_code == 403


def test_a_token_is_kept_in_a_cookie_that_no_script_and_no_other_site_sees(
    service: Console, token: Token, visit: Callable[..., Visitor]
) -> None:
    answer = visit().post("/login", {"token": f" {token.text} ", "next": "/ui/jobs?state=failed"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/jobs?state=failed")
    cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("convsvc_session="))
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {"httponly", "path=/ui", "samesite=strict"}
    # Behind a proxy with TLS.
    over_tls = visit().post("/login", {"token": token.text}, **{"X-Forwarded-Proto": "https"})
    assert all("secure" in value.lower() for value in over_tls.headers.get_list("set-cookie"))
    assert token.text not in answer.text


@pytest.mark.parametrize(
    "way", ["//elsewhere.example", "https://elsewhere.example", "/\\elsewhere", "/jobs", "/ui/login", "/uielsewhere", "/ui\r\nX: y"]
)
def test_the_login_leads_to_the_console_alone(visit: Callable[..., Visitor], token: Token, way: str) -> None:
    answer = visit().post("/login", {"token": token.text, "next": way})
    assert answer.headers["location"] == "/ui/jobs"


def test_a_bad_token_is_refused_counted_and_in_the_audit_and_never_shown_again(start: Start) -> None:
    with start() as service, service.visitor() as visitor:
        token = service.token()
        wrong = token.text[:-1] + ("0" if token.text[-1] != "0" else "1")
        answer = visitor.post("/login", {"token": wrong})
        assert answer.status_code == 401
        assert "the token is no good" in answer.text
        assert wrong not in answer.text
        assert "convsvc_session" not in "".join(answer.headers.get_list("set-cookie"))
        entry = service.request("GET", "/audit?action=authenticate", service.token("team-a", "admin").text).json()["entries"][0]
        assert (entry["outcome"], entry["detail"]["token"]) == ("unknown token", token.id)
        codes = [visitor.post("/login", {"token": wrong}).status_code for _ in range(12)]
        assert codes[-1] == 429


def test_a_revoked_token_ends_the_session_and_its_cookie(service: Console, token: Token, visitor: Visitor) -> None:
    assert visitor.get("/jobs").status_code == 200
    service.tokens.revoke(token.id, actor="the test")
    answers = [visitor.get("/jobs") for _ in range(50) if visitor.http.cookies.get("convsvc_session")]
    assert answers[-1].status_code == 303
    assert "convsvc_session" not in visitor.http.cookies
    assert visitor.get("/jobs").headers["location"] == "/ui/login?next=%2Fui%2Fjobs"


def test_logging_out_forgets_the_cookie_and_leaves_the_token_good(service: Console, token: Token, visitor: Visitor) -> None:
    assert visitor.http.post("/ui/logout", data={"csrf": visitor.csrf_of_session()}).headers["location"] == "/ui/login"
    assert visitor.get("/jobs").status_code == 303
    assert service.request("GET", "/whoami", token.text).status_code == 200


def test_a_link_on_another_site_asks_the_browser_once_more_for_the_cookie(visitor: Visitor) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    answer = visitor.get("/jobs", headers=link)
    assert (answer.status_code, 'http-equiv="refresh"' in answer.text, "set-cookie" in answer.headers) == (200, True, False)


def test_a_service_without_tokens_shows_its_console_to_this_machine_alone(start: Start) -> None:
    with start(tenants=False) as service:
        assert httpx.get(service.url + "/ui/jobs").status_code == 200
        assert httpx.get(service.url + "/ui/login").status_code == 303
        for headers in ({"Host": "rebound.example"}, {"X-Forwarded-For": "10.0.0.1"}, {"Sec-Fetch-Site": "cross-site"}):
            assert httpx.get(service.url + "/ui/jobs", headers=headers).status_code == 403


def test_the_root_leads_a_browser_to_the_console_and_nobody_else(service: Console) -> None:
    assert httpx.get(service.url + "/", headers={"Accept": "text/html,*/*"}).headers["location"] == "/ui"
    assert httpx.get(service.url + "/").status_code == 404


@pytest.mark.parametrize("name", ["../entry.py", "..%2fentry.py", "%2e%2e/entry.py", "nothing.js", "vendor"])
def test_static_files_are_those_of_the_pages_alone(visit: Callable[..., Visitor], name: str) -> None:
    assert visit().get(f"/static/{name}").status_code == 404
