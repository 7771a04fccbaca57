"""The typed client against the served application, and against servers that misbehave."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from convsvc.client import Client
from convsvc.errors import JobError, ServiceError, TargetBusy
from convsvc.service.errors import IllegalTransition, NoSuchJob
from convsvc.service.executor.executor import Executor
from convsvc.service.settings import Settings
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind: the client does not know which it is."""
    return sqlite_url


def test_importing_the_client_loads_nothing_heavy() -> None:
    code = (
        "import sys, convsvc.client; print([m for m in ('ray', 'torch', 'fastapi', 'sqlalchemy', 'numpy', 'uvicorn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_job_is_submitted_followed_and_read_back(client: Client, claims: Claims, stand_in: Any, a_job: Make) -> None:
    job = client.submit(a_job())
    assert job.created_at.tzinfo is not None
    runner = stand_in()
    thread = threading.Thread(target=Executor(claims, lambda: runner).run_one, args=(runner,))
    thread.start()
    events = list(client.events(job.id))
    thread.join()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.data["state"] for event in events if event.kind == "state"] == [
        "planning", "running", "sealing", "verifying", "sealing", "succeeded",
    ]  # fmt: skip
    done = client.wait(job.id)
    assert (done.state, done.model_type, done.result) == ("succeeded", "llama2", {"target": "/shared/out", "tensors": 7})
    assert (done.progress.tasks_done, done.progress.bytes_done) == (3, 300)
    assert [(task.number, task.state, task.attempt, task.worker) for task in client.tasks(job.id)] == [
        (number, "done", 1, "here") for number in range(3)
    ]
    assert client.logs(job.id)[0].message.startswith("planned llama2: 3 tasks")
    assert client.logs(job.id, after=client.logs(job.id)[-1].seq) == []


def test_events_after_one_that_was_seen_come_without_it(client: Client, claims: Claims, stand_in: Any, a_job: Make) -> None:
    job = client.submit(a_job())
    Executor(claims, stand_in).run_one(stand_in())
    events = list(client.events(job.id))
    assert list(client.events(job.id, after=4)) == events[4:]


def test_a_stream_that_breaks_is_opened_again_where_it_broke(
    settings: Settings, database: Database, claims: Claims, serve_app: Any, stand_in: Any, a_job: Make
) -> None:
    with serve_app(settings) as url:
        port = int(url.rpartition(":")[2])
        client = Client(url)
        events = client.events(client.submit(a_job()).id)
        seen = [next(events)]
    with serve_app(settings, port=port), client:
        Executor(claims, stand_in).run_one(stand_in())
        seen += events
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].data["state"] == "succeeded"


def test_problems_become_the_errors_they_were_made_from(client: Client, a_job: Make) -> None:
    job = client.submit(a_job())
    with pytest.raises(TargetBusy) as busy:
        client.submit(a_job())
    assert busy.value.details["job"] == job.id
    assert busy.value.do is not None
    with pytest.raises(NoSuchJob):
        client.job("nope")
    with pytest.raises(IllegalTransition):
        client.retry(job.id)
    with pytest.raises(JobError, match="wrong field"):
        client.submit({"source": {}})


def test_waiting_gives_up_after_its_time_and_the_job_goes_on(client: Client, a_job: Make) -> None:
    job = client.submit(a_job())
    with pytest.raises(ServiceError, match="has not ended after 0 s: it is queued"):
        client.wait(job.id, timeout_s=0)
    assert client.cancel(job.id).state == "canceled"
    assert client.wait(job.id, timeout_s=0).state == "canceled"


def test_the_small_questions_have_answers(client: Client, a_job: Make) -> None:
    assert client.plan(a_job()).model_type == "llama2"
    assert client.version()["name"] == "convsvc"
    assert client.families()
    assert client.jobs().jobs == []


def test_a_service_that_is_not_there_is_said_with_how_to_start_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ServiceError, match="no convsvc service answers") as caught:
            client.version()
    assert "convsvc serve" in str(caught.value.do)


def test_submitting_is_sent_again_with_the_same_key_after_a_bad_answer(a_job: Make) -> None:
    keys: list[str] = []

    class Flaky(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            keys.append(self.headers["Idempotency-Key"])
            self.rfile.read(int(self.headers["Content-Length"]))
            if len(keys) == 2:
                self.close_connection = True  # hangs up without an answer
                return
            self.send_response(503 if len(keys) == 1 else 422)
            self.end_headers()
            self.wfile.write(b"a proxy's words")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Client(url) as client, pytest.raises(ServiceError, match="answered 422"):
            client.submit(a_job())
        server.shutdown()
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_an_idle_stream_is_kept_alive_by_pings(url: str, client: Client, a_job: Make) -> None:
    import httpx

    job = client.submit(a_job())
    with httpx.stream("GET", f"{url}/jobs/{job.id}/events", timeout=20) as stream:
        began, lines = time.monotonic(), stream.iter_lines()
        while not next(lines).startswith(": ping"):
            assert time.monotonic() - began < 20
