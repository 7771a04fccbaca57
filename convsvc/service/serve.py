"""`convsvc serve`: the HTTP application in this process, and the executor as a supervised child."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import uvicorn

from convsvc.service.app import create_app
from convsvc.service.database import Database, default_database_url
from convsvc.service.errors import Exposed
from convsvc.service.settings import Settings

_log = logging.getLogger("convsvc.serve")

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
STEADY_S = 60.0  # an executor that lived this long is restarted at once
DRAIN_S = 35.0


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    database_url: str | None = None,
    engine: str = "ray",
    workers: int | None = None,
    ray_address: str | None = None,
    no_executor: bool = False,
    insecure_no_auth: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT. `port` 0 takes any free one; the URL is printed once requests are answered.

    Raises Exposed for a host beyond loopback: nothing asks for a token yet.
    """
    refuse_exposure(host, insecure_no_auth)
    url = database_url or default_database_url()
    _migrate(url)
    supervisor = None if no_executor else Supervisor(executor_command(engine, workers, ray_address), {"CONVSVC_DATABASE_URL": url})
    app = create_app(Settings(database_url=url, require_executor=not no_executor))
    server = _Server(uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5))
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles both while it serves, and then raises them again: without this the process would die before its executor.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    if supervisor:
        supervisor.start()
    try:
        server.run()
    finally:
        if supervisor:
            supervisor.stop()
    return 0


def refuse_exposure(host: str, insecure_no_auth: bool) -> None:
    """Raises Exposed unless `host` is loopback or the user insists; then it is said on stderr."""
    if is_loopback(host):
        return
    if not insecure_no_auth:
        raise Exposed(
            f"{host} can be reached from other machines, and requests are not authenticated",
            do="listen on 127.0.0.1, or add --insecure-no-auth if everybody who can reach this host may read and write its files",
            details={"host": host},
        )
    print(f"warning: anybody who can reach {host} can read and write files as this user (--insecure-no-auth)", file=sys.stderr)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def executor_command(engine: str, workers: int | None, ray_address: str | None) -> list[str]:
    """How the executor is started as a child of this process. The database's URL may hold a password: it goes by the environment."""
    command = [sys.executable, "-m", "convsvc.service.executor", "--engine", engine]
    command += ["--parent", str(os.getpid())]
    if workers:
        command += ["--workers", str(workers)]
    return [*command, "--ray-address", ray_address] if ray_address else command


class Supervisor:
    """Keeps a child process running: started again when it ends, after a pause that doubles while it keeps dying."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._command, self._environment = command, {**os.environ, **(environment or {})}
        self._ending = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the child to end, wait for it, end it by force if it does not."""
        self._ending.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
        self._thread.join(DRAIN_S)
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    @property
    def pid(self) -> int | None:
        """The child's process id; None before the first start."""
        return self._child.pid if self._child else None

    def _keep(self) -> None:
        pause_s = FIRST_BACKOFF_S
        while not self._ending.is_set():
            began = time.monotonic()
            # A session of its own: Ctrl-C reaches this process only, which then ends the child in order.
            self._child = subprocess.Popen(self._command, env=self._environment, start_new_session=True)
            if self._ending.is_set():
                self._child.terminate()
            code = self._child.wait()
            if self._ending.is_set():
                return
            pause_s = next_pause_s(pause_s, time.monotonic() - began)
            _log.warning("the executor ended with code %s; it is started again in %.1f s", code, pause_s)
            self._ending.wait(pause_s)


def next_pause_s(last_s: float, lived_s: float) -> float:
    """How long to wait before a child that lived `lived_s` is started again.

    >>> next_pause_s(1.0, 2.0), next_pause_s(16.0, 500.0)
    (2.0, 0.5)
    """
    return FIRST_BACKOFF_S if lived_s >= STEADY_S else min(2 * last_s, LONGEST_BACKOFF_S)


class _Server(uvicorn.Server):
    """Says where it listens as soon as it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"convsvc is ready at {listening_url(self)}", flush=True)


def listening_url(server: uvicorn.Server) -> str:
    """The URL of a started server, with the port it really has."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()
