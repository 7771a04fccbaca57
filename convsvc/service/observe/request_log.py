"""What is known of every HTTP request: its id, how it was answered, how long that took. In the log, in the metrics, in the answer."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convsvc.service.observe.metrics import HttpMetrics
from convsvc.service.observe.tracing import remember_parent
from convsvc.service.problems import on_crash

_log = logging.getLogger("convsvc.http")

HEADER = "X-Request-ID"
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# They come every few seconds, from machines.
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})


def request_id(given: str | None) -> str:
    """The caller's id for its request where it is a sane one, else a new one.

    >>> request_id("build-17"), len(request_id("a b")), len(request_id(None))
    ('build-17', 32, 32)
    """
    return given if given and _SANE.fullmatch(given) else uuid.uuid4().hex


class RequestLog:
    """ASGI middleware, the outermost: a request that crashes is answered, logged and counted here, too."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        name = request_id(headers.get(HEADER))
        answered = _Answered(send, name, lambda: self._note(scope, answered))
        with structlog.contextvars.bound_contextvars(request_id=name, tenant=None), remember_parent(headers.get("traceparent")):
            try:
                await self._app(scope, receive, answered)
            except Exception as error:
                if answered.status:
                    raise  # the answer has begun: all that can be done is to break the connection
                await on_crash(Request(scope), error)(scope, receive, answered)
            finally:
                answered.ended()

    def _note(self, scope: Scope, answered: _Answered) -> None:
        # The route as it was declared: a path holds ids, and whatever a stranger thought of.
        route, status = getattr(scope.get("route"), "path", "none"), answered.status or 499
        self._metrics.observe(scope["method"], route, status, answered.seconds)
        level = logging.DEBUG if route in _PROBES else logging.INFO
        extra = {"job": scope.get("path_params", {}).get("job_id") or answered.job}
        _log.log(level, "%s %s %d in %.1f ms", scope["method"], ascii(scope["path"])[1:-1], status, answered.seconds * 1000, extra=extra)


class _Answered:
    """The way back. Notes the status, and when the answer began: a stream's end says nothing of the service. 499: the client left.

    `note` is called once, before the answer's last piece is sent: whoever has the whole answer finds it in the log and the metrics.
    """

    def __init__(self, send: Send, name: str, note: Callable[[], None]) -> None:
        self._send, self._name, self._note = send, name, note
        self._noted = False
        self._began = time.perf_counter()
        self._took: float | None = None
        self.status, self.job = 0, ""  # the job is one that was just made

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began if self._took is None else self._took

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._took = message["status"], time.perf_counter() - self._began
            headers = MutableHeaders(scope=message)
            headers[HEADER] = self._name
            self.job = headers.get("location", "").rpartition("/")[2]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended()
        await self._send(message)

    def ended(self) -> None:
        """The request is over, or will be with what is sent next."""
        if not self._noted:
            self._noted = True
            self._note()
