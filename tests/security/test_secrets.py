"""No token and no password is to be found in what the service says, writes into answers, or was started with."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from convsvc.service.access.tenants import Tenants
from convsvc.service.access.tokens import Tokens
from convsvc.service.store.database import Database
from tests.service.postgres_server import binaries, cluster

PASSWORD = "hunter2-correct-horse"
WEBHOOK_SECRET = "signed-with-" + 32 * "w"
SERVE = [sys.executable, "-m", "convsvc.cli.main", "serve", "--port", "0"]


def command_lines(root: int) -> dict[int, bytes]:
    """The command line of a process and of all that came from it, as `ps` shows them to everybody."""
    parents = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
    ours = {root}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {pid: line for pid in ours if (line := _command_line(pid))}


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def served(tmp_path: Path, database_url: str, *args: str) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    said = tmp_path / "said.log"
    environment = {**os.environ, "CONVSVC_DATABASE_URL": database_url, "CONVSVC_DEBUG": "1"}
    environment |= {"CONVSVC_WEBHOOK_SECRET": WEBHOOK_SECRET, "CONVSVC_WEBHOOK_HOSTS": "hooks.example"}
    with said.open("w") as log, subprocess.Popen([*SERVE, *args], env=environment, stdout=log, stderr=log, text=True) as process:
        try:
            yield _url(said, process), process, said
        finally:
            process.terminate()
            process.wait(60)


def _url(said: Path, process: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + 60
    while not (found := re.search(r"ready at (http://\S+)", said.read_text())):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)
    return found[1]


def requests(url: str, token: str, places: Path) -> Iterator[httpx.Response]:
    """One of every kind, good and bad, with the token in every place where somebody may put it by mistake."""
    job = {"source": {"format": "huggingface", "path": f"{places}/hf"}, "target": {"format": "mindspeed-llm", "path": f"{places}/out"}}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
        made = http.post("/jobs", json=job, headers={"Idempotency-Key": "k"})
        yield made
        path = made.headers["location"]
        yield from (http.get(each) for each in ("/jobs", path, f"{path}/tasks", f"{path}/logs", "/audit", "/readyz", "/openapi.json"))
        yield http.post("/plans", json=job)
        yield http.post("/jobs", json={**job, "nonsense": 1})
        yield http.post("/jobs", json=[])
        yield http.get("/jobs?limit=0")
        yield http.get("/nowhere")
        yield http.delete("/jobs")
        yield http.post(f"{path}/cancel")
        yield http.get(f"{path}/events")
        yield http.get("/jobs", headers={"Authorization": f"Bearer {token}x"})
        yield http.get("/jobs", headers={"Authorization": f"Basic {token}"})
        yield http.get(f"/jobs?token={token}")
        yield http.get("/metrics")


def prepared(database_url: str, root: Path) -> str:
    database = Database(database_url)
    database.migrate()
    Tenants(database).create("team-a", roots=[str(root)], actor="the test")
    text = Tokens(database).create("ci", "team-a", ["admin"], expires_at=None, actor="the test")[1]
    database.close()
    return text


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_a_token_is_in_no_answer_no_log_and_no_command_line(tmp_path: Path, engine: str) -> None:
    database_url = f"sqlite:///{tmp_path}/jobs.db"
    token = prepared(database_url, tmp_path / "shared")
    with served(tmp_path, database_url, "--engine", engine) as (url, process, said):
        answers = list(requests(url, token, tmp_path / "shared"))
        _wait_for_the_end_of_every_job(url, token)
        lines = command_lines(process.pid)
    assert {200, 201, 401, 404, 405, 422} <= {answer.status_code for answer in answers}
    for answer in answers:
        assert not found_in(answer.text + str(answer.headers), token), answer.url
    assert len(lines) >= 2  # the executor too
    assert not found_in(said.read_text(), token)
    assert not found_in(b"".join(lines.values()).decode(errors="replace"), token)


def test_the_databases_password_is_nowhere_even_when_the_database_goes_away(tmp_path: Path) -> None:
    bin_dir = binaries()
    if bin_dir is None:
        pytest.skip("no PostgreSQL server on this machine")
    with ExitStack() as running:
        server = running.enter_context(cluster(bin_dir))
        database_url = server.new().replace("//postgres@", f"//postgres:{PASSWORD}@")
        token = prepared(database_url, tmp_path / "shared")
        with served(tmp_path, database_url, "--engine", "process") as (url, process, said):
            answers = list(requests(url, token, tmp_path / "shared"))
            lines = command_lines(process.pid)
            running.close()
            headers = {"Authorization": f"Bearer {token}"}
            away = [httpx.get(f"{url}/jobs", headers=headers, timeout=120), httpx.get(f"{url}/readyz", timeout=120)]
    assert {answer.status_code for answer in away} == {503}
    for answer in [*answers, *away]:
        assert not found_in(answer.text + str(answer.headers), PASSWORD, token)
    assert not found_in(said.read_text(), PASSWORD, token)
    assert not found_in(b"".join(lines.values()).decode(errors="replace"), PASSWORD, token)


def test_what_an_executor_starts_inherits_no_secret(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from convsvc.service.executor import executor\n"
        "executor.Executor.run = lambda self, **more: print(sorted(os.environ))\n"
        "executor.run_executor(engine='inline')\n"
    )
    secrets = {"CONVSVC_DATABASE_URL": f"sqlite:///{tmp_path}/jobs.db", "CONVSVC_WEBHOOK_SECRET": WEBHOOK_SECRET}
    environment = {**os.environ, **secrets, "CONVSVC_WEBHOOK_HOSTS": "hooks.example"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "CONVSVC_WEBHOOK_HOSTS" in done.stdout
    assert not [name for name in secrets if name in done.stdout]


def found_in(text: str, *secrets: str) -> list[str]:
    """Which of the secrets, or of the tokens' secret parts, or the one that signs webhooks, the text has."""
    return [secret for secret in (*secrets, WEBHOOK_SECRET) if secret.rpartition("_")[2] in text]


def _wait_for_the_end_of_every_job(url: str, token: str) -> None:
    deadline = time.monotonic() + 60
    while any(job["state"] not in ("failed", "canceled", "succeeded") for job in _jobs(url, token)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _jobs(url: str, token: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{url}/jobs", headers={"Authorization": f"Bearer {token}"}).json()["jobs"]
    return found


def test_a_job_is_stored_and_shown_as_it_was_sent_without_the_headers_it_came_with(service: Any) -> None:
    token = service.token()
    shown = service.request("GET", f"/jobs/{service.submitted(token)}", token.text).json()
    assert token.text not in json.dumps(shown)
    assert shown["submitted_by"] == "ci"


def refusing_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://convsvc:{password}@127.0.0.1:{port}/convsvc",
        "postgresql+psycopg://convsvc@127.0.0.1:{port}/convsvc?password={password}",
        "postgresql+psycopg://convsvc:{password}@127.0.0.1:{port}/convsvc?nonsense=1",
        "postgresql+psycopg://convsvc:{password}@127.0.0.1:none/convsvc",
        "nosuchdatabase://convsvc:{password}@127.0.0.1:{port}/convsvc",
        "{password}",
    ],
)
@pytest.mark.parametrize(
    "command", [["serve", "--port", "0"], ["executor", "--engine", "inline"], ["token", "list"]], ids=lambda words: words[0]
)
def test_a_database_that_does_not_answer_is_told_without_its_password(command: list[str], url: str) -> None:
    environment = {**os.environ, "CONVSVC_DATABASE_URL": url.format(password=PASSWORD, port=refusing_port()), "CONVSVC_DEBUG": "1"}
    line = [sys.executable, "-m", "convsvc.cli.main", *command]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_the_stores_file_is_its_owners_alone_whatever_its_directory_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    old = tmp_path / "old.db"
    old.touch(0o644)
    for path in (old, tmp_path / "new.db"):
        database = Database(f"sqlite:///{path}")
        database.migrate()
        with database.writing() as session:
            session.execute(text("SELECT 1"))
            modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.glob(f"{path.name}*")}
        database.close()
        assert set(modes.values()) == {"0o600"}, modes
