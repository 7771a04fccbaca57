"""Logs: what the processes write, with its ids; and what workers say of a task, kept with the job and streamed."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from convsvc.engine.base import Call
from convsvc.engine.calling import run_call
from convsvc.engine.process import ProcessEngine
from convsvc.engine.said import MOST_BYTES, MOST_LINES
from convsvc.errors import NoSpace
from convsvc.service.access.tenants import Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner, StoreListener
from convsvc.service.observe.json_logs import format_from_environment, formatter, set_up_logs
from convsvc.service.observe.metrics import HttpMetrics
from convsvc.service.observe.request_log import RequestLog, request_id
from convsvc.service.settings import Settings
from convsvc.service.store import task_logs
from convsvc.service.store.claims import Claim, Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.task_logs import levels_from
from convsvc.spec import parse_job

Lines = Callable[[], list[dict[str, Any]]]
SAY = "tests.service.test_service_logs:{}"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database is enough: the store's own tests are on both."""
    return sqlite_url


@pytest.fixture
def logged() -> Iterator[Lines]:
    """What this process logs, as JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    before, level = root.handlers[:], root.level
    set_up_logs("json", stream=stream)
    logging.captureWarnings(False)  # pytest's own capture of warnings is the one that counts here
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], root.level = before, level


def test_a_line_of_json_has_its_time_level_logger_message_and_ids(logged: Lines) -> None:
    with bound_contextvars(job="j1", tenant="team-a", worker="host:1"):
        logging.getLogger("convsvc.x").warning("two\nlines of %s", "text", extra={"task": 3, "attempt": 2, "password": "secret"})
    [line] = logged()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning", "logger": "convsvc.x", "message": "two\nlines of text",
        "job": "j1", "task": 3, "attempt": 2, "tenant": "team-a", "worker": "host:1",
    }  # fmt: skip


def test_an_exception_is_one_line_with_its_traceback(logged: Lines) -> None:
    try:
        raise ValueError("no good")
    except ValueError:
        logging.getLogger("some.library").exception("it failed")
    [line] = logged()
    assert line["message"] == "it failed"
    assert line["exception"].endswith("ValueError: no good")


def test_a_line_of_text_cannot_be_made_to_look_like_two() -> None:
    record = logging.LogRecord("convsvc.x", logging.INFO, "", 0, "a\n2024-01-01 error forged", (), None)
    with bound_contextvars(job="j1"):
        first, second = formatter("text").format(record).split("\n")
    assert first.endswith(" info    convsvc.x: a")
    assert second == "  2024-01-01 error forged job=j1"


def test_what_uvicorn_says_is_json_too() -> None:
    code = """
import logging
from convsvc.service.observe.json_logs import set_up_logs
from convsvc.service.serve import http_config
set_up_logs("json")
http_config(lambda scope: None, "127.0.0.1", 0)
logging.getLogger("uvicorn.error").warning("a word of uvicorn")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["a word of uvicorn"]


@pytest.mark.parametrize(("value", "form"), [("json", "json"), (" JSON ", "json"), ("text", "text"), ("", "text"), ("yaml", "text")])
def test_the_environment_chooses_the_form(value: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSVC_LOG_FORMAT", value)
    assert format_from_environment() == form


def test_every_line_about_a_job_names_it_and_lines_about_a_task_the_task(
    logged: Lines, store: Store, claims: Claims, stand_in: Any, a_job: Any
) -> None:
    job_id = store.submit(parse_job(a_job()))[0].id

    def fail(task: int) -> None:
        logging.getLogger("some.library").info("a word of a library")
        raise NoSpace("the disk is full")

    Executor(claims, stand_in).run_one(stand_in(before=fail))
    lines = logged()
    assert len(lines) >= 4
    assert {(line["job"], line["tenant"], line["worker"]) for line in lines} == {(job_id, "default", "executor-1")}
    assert "a word of a library" in [line["message"] for line in lines]


def test_a_request_is_logged_with_its_id_and_answered_with_it(logged: Lines, url: str, a_job: Any) -> None:
    mine = httpx.get(f"{url}/jobs?state=queued", headers={"X-Request-ID": "build-17", "Authorization": "Bearer cvs_secret"})
    made = httpx.get(f"{url}/jobs", headers={"X-Request-ID": "not a sane\tone"})
    httpx.get(f"{url}/livez")
    assert mine.headers["x-request-id"] == "build-17"
    assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])
    told = [line for line in logged() if line["logger"] == "convsvc.http"]
    assert [line["request_id"] for line in told] == ["build-17", made.headers["x-request-id"]], "probes are not told"
    assert re.fullmatch(r"GET /jobs 200 in \d+\.\d ms", told[0]["message"])
    assert told[0]["tenant"] == "default"
    made_job = httpx.post(f"{url}/jobs", json=a_job()).json()["id"]
    httpx.get(f"{url}/jobs/{made_job}/tasks")
    assert [line["job"] for line in logged() if line["logger"] == "convsvc.http" and "job" in line] == [made_job, made_job]
    assert "cvs_secret" not in json.dumps(logged())


def test_who_has_the_whole_answer_finds_it_in_the_log(logged: Lines) -> None:
    lines_before: dict[str, int] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await send({"type": "http.response.body", "body": b"last"})

    async def send(message: Message) -> None:
        lines_before[message.get("body", b"start").decode()] = len(logged())

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    metrics = HttpMetrics(Database("sqlite://"))
    asyncio.run(RequestLog(app, metrics)({"type": "http", "method": "GET", "path": "/jobs", "headers": []}, receive, send))
    assert lines_before == {"start": 0, "first": 0, "last": 1}
    assert len(logged()) == 1, "and once"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\nb", "é", None])
def test_an_insane_request_id_is_replaced(given: str | None) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", request_id(given))


def test_the_served_processes_write_json_and_nothing_else(tmp_path: Path) -> None:
    # Its parent is another than it is told: it ends.
    code = "from convsvc.service.executor.executor import main; main(['--engine', 'inline', '--parent', '1'])"
    environment = {**os.environ, "CONVSVC_LOG_FORMAT": "json", "CONVSVC_DATABASE_URL": f"sqlite:///{tmp_path}/c.db"}
    job = parse_job({"source": {"format": "huggingface", "path": "/nowhere"}, "target": {"format": "mindspeed-llm", "path": "/n/out"}})
    database = Database(environment["CONVSVC_DATABASE_URL"])
    database.migrate()
    job_id = Store(database).submit(job)[0].id
    database.close()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert job_id in {line.get("job") for line in lines}


def speak(payload: dict[str, Any]) -> str:
    """What a worker might say."""
    log = logging.getLogger("convsvc.execute.worker")
    log.info("read %d", 7)
    log.debug("not worth it")
    thread = threading.Thread(target=log.warning, args=("another thread's",))
    thread.start()
    thread.join()
    if payload.get("fail"):
        log.warning("it looks bad")
        raise NoSpace("the disk is full")
    return "done"


def babble(payload: dict[str, Any]) -> None:
    for number in range(payload["lines"]):
        logging.getLogger("convsvc.execute.worker").warning("%d %s", number, "x" * payload["length"])


def call(function: str, **payload: Any) -> Any:
    return run_call(Call("c", SAY.format(function), payload, 10.0), "w")


def test_what_a_call_says_comes_with_its_outcome_also_when_it_fails(logged: Lines) -> None:
    assert [(line["level"], line["message"]) for line in call("speak").said] == [("info", "read 7")]
    failed = call("speak", fail=True)
    assert failed.error["type"] == "NoSpace"
    assert [line["message"] for line in failed.said] == ["read 7", "it looks bad"]
    assert {line["message"] for line in logged()} == {"another thread's"}, "what travels with the outcome is not logged twice"


@pytest.mark.parametrize(("lines", "length"), [(10_000, 10), (100, 3000), (3, 10_000_000)])
def test_what_a_call_says_is_bounded(lines: int, length: int) -> None:
    said = call("babble", lines=lines, length=length).said
    assert len(said) <= MOST_LINES + 1
    assert len(json.dumps(said)) < MOST_BYTES + (64 << 10)
    if len(said) < lines:
        assert said[-1]["message"] == f"{lines - len(said) + 1} more lines were dropped"


def test_what_a_worker_process_says_reaches_the_driver() -> None:
    engine = ProcessEngine(workers=1)
    try:
        engine.submit(Call("c", SAY.format("speak"), {}, 60.0))
        [outcome] = engine.wait(60.0)
    finally:
        engine.close()
    assert (outcome.value, [line["message"] for line in outcome.said]) == ("done", ["read 7"])


@pytest.fixture
def running(store: Store, claims: Claims, a_job: Any) -> tuple[Claim, StoreListener]:
    """A job of five tasks that is being written."""
    store.submit(parse_job(a_job()))
    claim = claims.claim()
    assert claim is not None
    claims.planned(claim, "llama2", {}, [PlannedTask(n, f"layer {n}", 100) for n in range(5)])
    listener = StoreListener(claims, claim)
    listener.phase("write", 5)
    return claim, listener


def said(message: str, level: str = "info", at: float = 1_700_000_000.0) -> dict[str, Any]:
    return {"at": at, "level": level, "message": message}


def attempt(listener: StoreListener, task: int, number: int, *lines: dict[str, Any], error: str | None = None) -> None:
    listener.task_started(task, f"layer {task}", number)
    listener.task_said(task, lines)
    if error:
        listener.task_failed(task, NoSpace(error, facts=["3 GiB free"]).as_dict(), True, "")
    else:
        listener.task_done(task, {"bytes_read": 100, "bytes_written": 100, "seconds": 0.1, "worker": "w"})
    listener.flush()


def test_lines_are_kept_with_task_attempt_and_the_time_they_were_said(store: Store, running: Any) -> None:
    claim, listener = running
    attempt(listener, 1, 1, said("slow", "warning"), error="the disk is full")
    attempt(listener, 1, 2, said("wrote layer 1"))
    lines = [line for line in store.logs(claim.job_id) if line.task == 1]
    assert [(line.attempt, line.level, line.message) for line in lines] == [
        (1, "warning", "task layer 1: the disk is full\n  3 GiB free; it is tried again"),
        (1, "warning", "slow"),
        (2, "info", "wrote layer 1"),
    ]
    assert lines[1].at.timestamp() == 1_700_000_000.0


def test_a_log_is_asked_for_by_task_and_level(url: str, running: Any, store: Store) -> None:
    claim, listener = running
    attempt(listener, 0, 1, said("one"), said("two", "warning"), said("three", "error"))
    attempt(listener, 1, 1, said("four", "warning"))
    path, ask = f"{url}/jobs/{claim.job_id}/logs", httpx.get
    assert [line["message"] for line in ask(path, params={"task": 0}).json()] == ["one", "two", "three"]
    assert [line["message"] for line in ask(path, params={"level": "warning"}).json()] == ["two", "three", "four"]
    assert [line["message"] for line in ask(path, params={"level": "warning", "task": 1}).json()] == ["four"]
    assert ask(path, params={"level": "loud"}).status_code == 422
    text = ask(path, params={"task": 1}, headers={"Accept": "text/plain"}).text
    assert text.endswith("Z warning four\n")


def test_levels_from_one_on() -> None:
    assert levels_from("error") == ("error", "critical")


def test_a_jobs_log_has_an_end_and_says_so(store: Store, running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_logs, "MOST_LINES", 10)
    claim, listener = running
    for number in range(5):
        attempt(listener, number, 1, *(said(f"line {n}") for n in range(4)))
    messages = [line.message for line in store.logs(claim.job_id)]
    assert len(messages) == 11
    assert messages[-1] == "the log has 10 lines: what workers say from here on is not kept"


@pytest.fixture
def stream() -> Iterator[Callable[..., Iterator[dict[str, Any]]]]:
    """Follows a job's log, line by line; what was opened is closed with the test."""
    with ExitStack() as opened:
        yield lambda *given, **more: opened.enter_context(closing(lines_of(*given, **more)))


def lines_of(url: str, job_id: str, headers: dict[str, str] | None = None, **params: Any) -> Generator[dict[str, Any], None, None]:
    headers = {"Accept": "text/event-stream", **(headers or {})}
    with httpx.stream("GET", f"{url}/jobs/{job_id}/logs", headers=headers, params=params, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data:"):
                yield json.loads(line[5:])


def test_a_log_is_streamed_as_it_is_written_and_ends_with_the_job(url: str, running: Any, claims: Claims, stream: Any) -> None:
    claim, listener = running
    attempt(listener, 0, 1, said("one"), error="a hiccup")
    following = stream(url, claim.job_id, task=0)
    assert next(following)["message"].startswith("task layer 0: a hiccup")
    assert next(following)["message"] == "one"
    attempt(listener, 1, 1, said("of another task"))
    attempt(listener, 0, 2, said("two"))
    claims.succeed(claim, {})
    assert [line["message"] for line in following] == ["two"]


def test_who_comes_back_with_the_last_id_misses_no_line_and_hears_none_twice(url: str, running: Any, claims: Claims, stream: Any) -> None:
    claim, listener = running
    attempt(listener, 0, 1, *(said(f"line {n}") for n in range(5)))
    claims.succeed(claim, {})
    everything = list(stream(url, claim.job_id))
    assert [line["seq"] for line in everything] == sorted(line["seq"] for line in everything)
    for place, line in enumerate(everything):
        again = list(stream(url, claim.job_id, {"Last-Event-ID": str(line["seq"])}))
        assert again == everything[place + 1 :]
    assert httpx.get(f"{url}/jobs/nope/logs", headers={"Accept": "text/event-stream"}).status_code == 404


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_a_real_task_says_what_it_moved_how_fast_and_where(engine: str, source: Path, tmp_path: Path, store: Store, claims: Claims) -> None:
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "out")}
    job_id = store.submit(parse_job({"source": {"format": "huggingface", "path": str(source)}, "target": target}))[0].id
    runner, before = EngineRunner(engine, workers=1), logging.getLogger("convsvc").level
    logging.getLogger("convsvc").setLevel(logging.INFO)  # as in an executor
    try:
        assert Executor(claims, lambda: runner).run_one(runner)
    finally:
        logging.getLogger("convsvc").setLevel(before)
        runner.close()
    assert store.job(job_id).state == "succeeded"
    tasks = {task.number for task in store.tasks(job_id)}
    told = [line for line in store.logs(job_id) if line.task is not None]
    assert {line.task for line in told} == tasks
    assert {line.attempt for line in told} == {1}
    moved = r"(write|verify) .+: read \d+\.\d MB, wrote \d+\.\d MB in \d+\.\d\d s"
    form = moved + r" \(\d+ MB/s, \d+ % around the page cache\) on \S+, process \d+"
    assert all(re.fullmatch(form, line.message) for line in told), told
    assert {line.message.split()[0] for line in told} == {"write", "verify"}


def test_a_stream_is_closed_to_a_token_that_was_revoked_meanwhile(
    settings: Settings, serve_app: Any, running: Any, database: Any, stream: Any
) -> None:
    claim, listener = running
    Tenants(database).create("default", roots=["/tmp"], actor="a test")
    token, text = Tokens(database).create("ci", "default", ("jobs:read",), expires_at=None, actor="a test")
    with serve_app(replace(settings, require_tokens=True, token_cache_s=0)) as url:
        following = stream(url, claim.job_id, {"Authorization": f"Bearer {text}"})
        attempt(listener, 0, 1, said("one"))
        while next(following)["message"] != "one":
            pass
        Tokens(database).revoke(token.id, actor="a test")
        assert list(following) == []
