"""What both clients are made of, but for waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import httpx

from convsvc.client.address import find_address
from convsvc.client.requests import Answer, Request
from convsvc.client.retries import RETRY_FOR_S, Again, lost, read_answer, refusal, retrying
from convsvc.errors import ConvsvcError

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class BaseClient(Generic[Http]):
    """The service is at `base_url`, else $CONVSVC_URL, else on this machine; `token` is what it gave us, else $CONVSVC_TOKEN.

    `timeout_s` is for one attempt, `retry_for_s` for all attempts of one request, pauses included.
    `on_wait` is told before each pause: how many seconds, and what the request is sent again for.
    Raises BadAddress, or InsecureAddress for a token over plain http to another machine without `allow_insecure`.
    """

    _kind: ClassVar[Any]  # Http; a class variable cannot say so

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        timeout_s: float = 30,
        *,
        retry_for_s: float = RETRY_FOR_S,
        allow_insecure: bool = False,
        on_wait: Callable[[float, ConvsvcError], None] | None = None,
    ) -> None:
        self._on_wait = on_wait
        self._address = find_address(base_url, token, allow_insecure=allow_insecure)
        self._retry_for_s = retry_for_s
        self._http: Http = self._kind(**self._address.http_options(timeout_s))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.shown!r})"

    def _retrying(self, request: Request[Any]) -> dict[str, Any]:
        return retrying(request, self._retry_for_s, self._on_wait)

    def _read(self, request: Request[Answer], response: httpx.Response) -> Answer:
        return read_answer(request, self._address.shown + request.path, response.status_code, response.headers, response.content)

    def _refusal(self, request: Request[Any], response: httpx.Response) -> ConvsvcError | Again:
        return refusal(self._address.shown + request.path, response.status_code, response.headers, response.content)

    def _lost(self, failure: httpx.TransportError) -> Again:
        return lost(self._address, failure)
