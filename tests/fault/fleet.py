"""A service, its executor under the real supervisor, and a Ray of several nodes: real processes, to be killed."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from convsvc.engine.ray import ENVIRONMENT
from convsvc.service.executor.supervisor import Supervisor

T = TypeVar("T")

CONVSVC = str(Path(sys.executable).with_name("convsvc"))
NODES_SCRIPT = str(Path(__file__).with_name("ray_nodes.py"))
EXECUTOR_SCRIPT = str(Path(__file__).with_name("small_task_executor.py"))
ENDED = ("succeeded", "failed", "canceled")


def until(ask: Callable[[], T], what: str, within_s: float = 60) -> T:
    """The first true answer."""
    deadline = time.monotonic() + within_s
    while not (found := ask()):
        assert time.monotonic() < deadline, f"waited for {what} for {within_s:g} s"
        time.sleep(0.02)
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RayNodes:
    """A Ray cluster of several nodes on this machine, in a process of its own. It can be lost with its head and made again."""

    def __init__(self, environment: dict[str, str], count: int = 3) -> None:
        self._environment, self._count = environment, count
        # Ray puts sockets there, whose paths may be 107 bytes long at most.
        self.folder = tempfile.mkdtemp(prefix="cvs-", dir="/tmp")
        self.port = free_port()
        self.state: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def address(self) -> str:
        return str(self.state["address"])

    def start(self) -> None:
        """A node gives up after half a minute if its machine has too much to do: they are started again."""
        for tries_left in (2, 1, 0):
            with (Path(self.folder) / "nodes.log").open("a") as log:
                command = [sys.executable, NODES_SCRIPT, str(self.port), self.folder, str(self._count)]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
                self._process = subprocess.Popen(command, env=self._environment, text=True, start_new_session=True, **pipes)
            try:
                self._read()
                return
            except AssertionError:
                self.stop()
                if not tries_left:
                    raise

    def tell(self, order: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        self._read()

    def workers(self) -> list[psutil.Process]:
        """The processes that run a task now."""
        found = []
        for pid in self.state["raylets"].values():
            try:
                found += [child for child in psutil.Process(pid).children() if "ray::_run_on_ray" in "".join(child.cmdline())]
            except psutil.Error:
                continue
        return found

    def lose_head(self) -> None:
        """Kills the head as it is, starts another one on the same port, with other nodes, as a cluster's manager would."""
        os.kill(self.state["head"], signal.SIGKILL)
        self.stop()
        self.start()

    def stop(self) -> None:
        if self._process is None:
            return
        raylets = list(self.state.get("raylets", {}).values())
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]  # it was started with a pipe
        self._process = None
        until(lambda: not any(psutil.pid_exists(pid) for pid in raylets), "the nodes' end")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self.state = json.loads(line)
                return
        raise AssertionError((Path(self.folder) / "nodes.log").read_text()[-3000:])


@dataclass
class Api:
    """`convsvc serve` without an executor, always on the same port."""

    environment: dict[str, str]
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    program: list[str] = field(default_factory=lambda: [CONVSVC, "serve"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("a") as errors:
            command = [*self.program, "--port", str(self.port), "--no-executor"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert re.fullmatch(rf"convsvc is ready at {self.url}\n", line), f"{line!r}\n{self.log.read_text()}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]  # it was started with a pipe

    def submit(self, job: dict[str, Any], key: str) -> str:
        """The job's id. Asked with the same key until there is an answer: the service may be killed before, while or after it hears."""

        def ask() -> str | None:
            try:
                answer = httpx.post(f"{self.url}/jobs", json=job, headers={"Idempotency-Key": key}, timeout=10)
            except httpx.HTTPError:
                return None
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            assert answer.status_code >= 500 or answer.status_code < 300, answer.text
            return str(answer.json()["id"]) if answer.status_code < 300 else None

        return str(until(ask, "an answer to a submitted job", 120))

    def get(self, path: str) -> Any:
        """None while the service does not answer."""
        try:
            answer = httpx.get(f"{self.url}{path}", timeout=10)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs there are."""
        page = until(lambda: self.get("/jobs?limit=100"), "the jobs")
        assert page["next_cursor"] is None
        return list(page["jobs"])


@dataclass
class Fleet:
    """What the tests need to know of all of it."""

    api: Api
    nodes: RayNodes
    supervisor: Supervisor
    log: Path

    def kill_executor(self, how: signal.Signals = signal.SIGKILL) -> None:
        """And wait until its supervisor has started another one. It may have died of an earlier blow, just now."""
        pid = self.supervisor.pid
        assert pid is not None
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        until(lambda: self.supervisor.pid != pid, "another executor", 90)


def fault_environment(database_url: str) -> dict[str, str]:
    """The environment of every process of a fleet: one token, one database, no long wait for a head that is gone."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CONVSVC_"))}
    ray = {**ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
    return {**clean, **ray, "CONVSVC_DATABASE_URL": database_url}


@contextmanager
def fleet(folder: Path, *, nodes: int = 3, concurrency: int = 3, lease_s: float = 4, database_url: str | None = None) -> Iterator[Fleet]:
    """An API, an executor of the ray engine and its cluster; all of it ends here. The job store is SQLite in `folder`, or at the URL."""
    environment = fault_environment(database_url or f"sqlite:///{folder}/jobs.db")
    with ExitStack() as stack:
        cluster = RayNodes(environment, nodes)
        stack.callback(cluster.close)
        api = Api(environment, folder / "api.log")
        api.start()
        stack.callback(api.kill)
        log = folder / "executor.log"
        command = [sys.executable, EXECUTOR_SCRIPT, str(log), "--engine", "ray", "--ray-address", cluster.address]
        command += ["--concurrency", str(concurrency), "--lease-s", str(lease_s), "--parent", str(os.getpid())]
        supervisor = Supervisor(command, environment)  # the real one, in this process
        supervisor.start()
        stack.callback(supervisor.stop)
        yield Fleet(api, cluster, supervisor, log)
