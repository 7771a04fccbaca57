"""`convsvc serve` as users run it: processes, signals, a real conversion."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from convsvc.client import Client
from convsvc.errors import ServiceError
from convsvc.loopback import is_loopback
from convsvc.service.errors import Exposed
from convsvc.service.serve import Supervisor, listen, refuse_exposure, warn_of_open_door

SERVE = "from convsvc.service.serve import serve; serve(port=0, engine='inline', database_url={url!r})"


@contextmanager
def served(database_url: str, log: Path) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    with log.open("a") as errors:
        command = [sys.executable, "-c", SERVE.format(url=database_url)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"convsvc is ready at (http://127.0.0.1:\d+)\n", process.stdout.readline())
        assert found, log.read_text()
        with Client(found[1], timeout_s=20) as client:
            yield client, process
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()  # type: ignore[union-attr]  # it was started with a pipe


def test_a_real_job_is_converted_survives_a_killed_executor_and_the_service_ends_in_order(
    source: Path, tmp_path: Path, database_url: str
) -> None:
    log = tmp_path / "serve.log"
    with served(database_url, log) as (client, process):
        first = until(lambda: executor_of(process.pid), "an executor")
        until(lambda: is_ready(client), "readiness")
        done = client.wait(client.submit(job(source, tmp_path / "one")).id, timeout_s=60)
        assert done.state == "succeeded", done.error
        assert (tmp_path / "one" / "latest_checkpointed_iteration.txt").exists()
        os.kill(first, signal.SIGKILL)
        second = until(lambda: (found := executor_of(process.pid)) != first and found, "another executor")
        done = client.wait(client.submit(job(source, tmp_path / "two")).id, timeout_s=60)
        assert done.state == "succeeded", done.error
    assert process.returncode == 0
    assert not Path(f"/proc/{second}").exists()
    assert "it is started again" in log.read_text()


def test_an_executor_ends_when_the_service_was_killed(tmp_path: Path, database_url: str) -> None:
    with served(database_url, tmp_path / "serve.log") as (client, process):
        executor = until(lambda: executor_of(process.pid), "an executor")
        until(lambda: is_ready(client), "readiness")
        process.kill()
        process.wait()
        until(lambda: not Path(f"/proc/{executor}").exists() or "Z" in Path(f"/proc/{executor}/stat").read_text().split()[2], "its end")


def test_a_host_beyond_loopback_is_refused_until_a_token_lets_somebody_in() -> None:
    with pytest.raises(Exposed, match="can be reached from other machines") as caught:
        refuse_exposure("0.0.0.0", usable_tokens=0)
    assert "convsvc token create" in str(caught.value.do)
    refuse_exposure("0.0.0.0", usable_tokens=1)
    refuse_exposure("127.0.0.1", usable_tokens=0)


def test_a_service_without_tokens_says_at_its_start_who_can_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_open_door("127.0.0.1", tokens_exist=False)
    assert "anybody on this machine can read and write files as" in capsys.readouterr().err
    warn_of_open_door("127.0.0.1", tokens_exist=True)
    assert capsys.readouterr().err == ""


def test_an_answer_of_two_packets_does_not_wait_for_the_acknowledgement_of_the_first() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_told_in_words_and_no_executor_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "convsvc.cli.main", "serve", "--port", str(port), "--engine", "inline"]
        environment = {**os.environ, "CONVSVC_HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 8
    assert f"127.0.0.1, port {port}, cannot be listened on: Address already in use" in done.stderr
    assert "--port" in done.stderr
    assert not (tmp_path / "executor.pulse").exists()


LOOPBACK = [("localhost", True), ("127.8.8.8", True), ("::1", True), ("::", False), ("example.org", False)]


@pytest.mark.parametrize(("host", "expected"), LOOPBACK)
def test_only_what_stays_on_this_machine_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@contextmanager
def supervised(database_url: str, pulse: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`convsvc executor` as it is run beside an API on another machine."""
    command = [sys.executable, "-m", "convsvc.cli.main", "executor", "--engine", "inline", "--database-url", database_url]
    environment = {**os.environ, "CONVSVC_PULSE_FILE": str(pulse)}
    with log.open("a") as errors:
        process = subprocess.Popen(command, env=environment, stderr=errors, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def check_pulse(pulse: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "convsvc.cli.main", "executor", "--check"]
    done = subprocess.run(command, env={**os.environ, "CONVSVC_PULSE_FILE": str(pulse)}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_an_executor_alone_is_supervised_its_pulse_is_heard_and_it_ends_in_order(tmp_path: Path, database_url: str) -> None:
    pulse, log = tmp_path / "run" / "executor.pulse", tmp_path / "executor.log"
    assert check_pulse(pulse) == (1, f"no executor has a pulse in {pulse}\n")
    with supervised(database_url, pulse, log) as process:
        first = until(lambda: executor_of(process.pid), "an executor")
        until(pulse.exists, "a pulse")
        code, said = check_pulse(pulse)
        assert (code, "the executor was heard" in said) == (0, True)
        os.kill(first, signal.SIGKILL)
        second = until(lambda: (found := executor_of(process.pid)) != first and found, "another executor")
    assert process.returncode == 0
    assert not Path(f"/proc/{second}").exists()
    os.utime(pulse, (0, 0))
    code, said = check_pulse(pulse)
    assert (code, "it hangs or has ended" in said) == (1, True)


def test_the_pulse_stands_still_while_the_executor_hangs(tmp_path: Path) -> None:
    """It is the executor's own: that its supervisor lives says nothing."""
    heard, talks = [], tmp_path / "talks"
    script = f"import os, sys, time\nwhile True: os.write(int(sys.argv[-1]), b'.'), open({str(talks)!r}, 'w').close(), time.sleep(0.05)"
    supervisor = Supervisor([sys.executable, "-c", script], heard=lambda: heard.append(supervisor.pid), silence_s=3.0)
    supervisor.start()
    try:
        until(talks.exists, "the child's first word")
        hung = supervisor.pid
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        until(lambda: supervisor.pid != hung, "another child")
        before = heard.count(hung)
        until(lambda: heard.count(supervisor.pid) > 0, "its word")
        assert heard.count(hung) == before
    finally:
        supervisor.stop()


def test_a_child_that_keeps_dying_is_started_again_and_again(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    supervisor = Supervisor([sys.executable, "-c", f"open({str(lives)!r}, 'a').write('x')"])
    supervisor.start()
    until(lambda: lives.exists() and len(lives.read_text()) >= 2, "a second life")
    supervisor.stop()
    count = len(lives.read_text())
    time.sleep(0.2)
    assert len(lives.read_text()) == count


def job(source: Path, target: Path) -> dict[str, Any]:
    return {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "mindspeed-llm", "path": str(target)}}


def executor_of(parent: int) -> int | None:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    # The supervisor's thread is the one that made the child.
    for thread in Path(f"/proc/{parent}/task").iterdir():
        children += (thread / "children").read_text().split()
    return int(children[0]) if children else None


def is_ready(client: Client) -> bool:
    try:
        return bool(client.ready())
    except ServiceError:
        return False


def until(ask: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 60
    while not (found := ask()):
        assert time.monotonic() < deadline, f"waited for {what} for 60 s"
        time.sleep(0.05)
    return found
