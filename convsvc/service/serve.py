"""`convsvc serve`: the HTTP application in this process, and the executor as a supervised child."""

from __future__ import annotations

import getpass
import logging
import os
import signal
import socket
import sys
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from convsvc.loopback import is_loopback
from convsvc.service.access.tokens import Tokens
from convsvc.service.app import create_app
from convsvc.service.errors import CannotListen, Exposed
from convsvc.service.executor.bounds import Bounds
from convsvc.service.executor.pulse import Pulse, pulse_file
from convsvc.service.executor.supervised import executor_command
from convsvc.service.executor.supervisor import Supervisor
from convsvc.service.observe.json_logs import VARIABLE, Format, format_from_environment, set_up_logs
from convsvc.service.observe.tracing import set_up_tracing
from convsvc.service.settings import Settings
from convsvc.service.store.database import Database, default_database_url
from convsvc.service.store.retrying import retried

_log = logging.getLogger("convsvc.serve")

MOST_HEADER_BYTES = 32 << 10


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    database_url: str | None = None,
    engine: str = "ray",
    workers: int | None = None,
    ray_address: str | None = None,
    memory_limit_bytes: int | None = None,
    no_executor: bool = False,
    log_format: Format | None = None,
    **bounds: Any,
) -> int:
    """Serve until SIGTERM or SIGINT. `port` 0 takes any free one; the URL is printed once requests are answered.

    Raises Exposed for a host beyond loopback while there is no usable token, CannotListen.
    """
    form = log_format or format_from_environment()
    set_up_logs(form)
    set_up_tracing()
    url = database_url or default_database_url()
    tokens_exist = _prepare(url, host)
    command = executor_command(engine, workers, ray_address, memory_limit_bytes, Bounds(**bounds))
    child = {"CONVSVC_DATABASE_URL": url, VARIABLE: form}
    supervisor = None if no_executor else Supervisor(command, child, heard=Pulse(pulse_file()).beat)
    settings = Settings(
        database_url=url,
        require_executor=not no_executor,
        require_tokens=tokens_exist or not is_loopback(host),
        memory_limit_bytes=memory_limit_bytes,
    )
    listener = listen(host, port)  # first: an executor is not started for a service that nobody can ask
    app = create_app(settings)
    server = _Server(http_config(app, host, port))
    warn_of_open_door(host, tokens_exist, form)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles both while it serves, and then raises them again: without this the process would die before its executor.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    if supervisor:
        supervisor.start()
    try:
        server.run(sockets=[listener])
    finally:
        if supervisor:
            supervisor.stop()
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; `port` 0 takes any free one. Raises CannotListen."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except (OSError, OverflowError) as error:
        raise CannotListen(
            f"{host}, port {port}, cannot be listened on: {getattr(error, 'strerror', None) or error}",
            do="choose another one with --port (0 takes any that is free), or end what has it",
            details={"host": host, "port": port},
        ) from error
    # Connections have it from here: asyncio sets it where a socket was made as TCP's by number, which this one is not. Without it the
    # second packet of an answer waits for the client's delayed acknowledgement of the first, 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def refuse_exposure(host: str, usable_tokens: int) -> None:
    """Raises Exposed for a host beyond loopback while no token lets anybody in: it would be deaf, or open to strangers."""
    if is_loopback(host) or usable_tokens:
        return
    raise Exposed(
        f"{host} can be reached from other machines, and no token was made yet",
        do="make one (convsvc tenant create NAME --root DIR; convsvc token create --name NAME --tenant NAME), or listen on 127.0.0.1",
        details={"host": host},
    )


def warn_of_open_door(host: str, tokens_exist: bool, form: Format = "text") -> None:
    """Say on stderr that requests need no token, where that is so; as a line of JSON where a machine reads it."""
    if is_loopback(host) and not tokens_exist and form == "json":
        _log.warning("no token was made yet: anybody on this machine can read and write files as %s through this service", _user())
    elif is_loopback(host) and not tokens_exist:
        print(
            f"warning: no token was made yet, so anybody on this machine can read and write files as {_user()} through this service",
            "  do: `convsvc tenant create` and `convsvc token create`; requests need a token within seconds of that",
            sep="\n",
            file=sys.stderr,
            flush=True,
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


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


def http_config(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """h11 bounds a request's headers, httptools does not. `request_log` writes a line a request, without headers: they hold tokens."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http="h11",
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        server_header=False,
        access_log=False,
        log_config=None,  # its loggers write where everything goes
        log_level="warning",
        timeout_graceful_shutdown=5,
    )


def _prepare(url: str, host: str) -> bool:
    """Bring the tables up to date, and say whether a token was made. Raises Exposed, StoreAway."""
    database = Database(url)
    try:
        retried(database.migrate)()
        tokens = Tokens(database)
        refuse_exposure(host, tokens.usable())
        return tokens.any()
    finally:
        database.close()
