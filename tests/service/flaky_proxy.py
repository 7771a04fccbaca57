"""A reverse proxy with mishaps: what lies between a client and the service on a bad day. One request a connection."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Seen:
    """A request that came in, and when."""

    method: str
    path: str
    headers: dict[str, str]
    at: float


@dataclass
class Flaky:
    """The proxy's script. Each request on a path for which `about` is true takes the next mishap; after the last one all goes well."""

    upstream: tuple[str, int]
    mishaps: deque[Mishap] = field(default_factory=deque)
    about: Callable[[Seen], bool] = lambda seen: True
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def requests(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path.partition("?")[0]) == (method, path)]


Mishap = Callable[[socket.socket, bytes, Flaky], None]


def forward(connection: socket.socket, request: bytes, flaky: Flaky) -> None:
    """No mishap."""
    for chunk in _answer(request, flaky):
        connection.sendall(chunk)


def drop(connection: socket.socket, request: bytes, flaky: Flaky) -> None:
    """The request is read, and nothing is done with it."""


def lose_the_answer(connection: socket.socket, request: bytes, flaky: Flaky) -> None:
    """The service does what was asked, and nobody hears of it."""
    for _ in _answer(request, flaky):
        pass


def say(status: str, *headers: str, body: str = "a proxy's words") -> Mishap:
    """The proxy answers itself."""

    def mishap(connection: socket.socket, request: bytes, flaky: Flaky) -> None:
        head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close"))
        connection.sendall(f"{head}\r\n{body}".encode())

    return mishap


def cut_after(size_bytes: int, *, reset: bool = False) -> Mishap:
    """The answer ends after so many bytes of its body: the connection is closed, or reset."""

    def mishap(connection: socket.socket, request: bytes, flaky: Flaky) -> None:
        answer, left = b"", size_bytes
        for chunk in _answer(request, flaky):
            if b"\r\n\r\n" not in answer:
                answer += chunk
                head, end, chunk = answer.partition(b"\r\n\r\n")  # noqa: PLW2901  the rest of the chunk is the body's beginning
                if not end:
                    continue
                connection.sendall(head + end)
            connection.sendall(chunk[:left])
            left -= len(chunk)
            if left <= 0:
                break
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return mishap


@contextmanager
def flaky_proxy(url: str, *mishaps: Mishap) -> Iterator[Flaky]:
    """A proxy before the service at `url`."""
    parts = urlsplit(url)
    flaky = Flaky((str(parts.hostname), int(parts.port or 0)), deque(mishaps))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.flaky = flaky
        flaky.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield flaky
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    flaky: Flaky


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        flaky = cast(_Server, self.server).flaky
        request = _read_request(self.request)
        if not request:
            return
        seen = _seen(request)
        flaky.seen.append(seen)
        mishap = flaky.mishaps.popleft() if flaky.mishaps and flaky.about(seen) else forward
        with suppress(ConnectionError):  # the client has gone
            mishap(self.request, request, flaky)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        data += chunk
    length = int(_seen(data).headers.get("content-length", 0))
    head, end, body = data.partition(b"\r\n\r\n")
    while len(body) < length:
        body += connection.recv(65536)
    return head + end + body


def _seen(request: bytes) -> Seen:
    line, *lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, path, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    return Seen(method, path, headers, time.monotonic())


def _answer(request: bytes, flaky: Flaky) -> Iterator[bytes]:
    head, end, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    with socket.create_connection(flaky.upstream, timeout=30) as upstream:
        upstream.sendall(b"\r\n".join([*lines, b"Connection: close"]) + end + body)
        while chunk := upstream.recv(65536):
            yield chunk
