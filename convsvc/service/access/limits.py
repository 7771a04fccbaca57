"""How much one may ask: the size of a request's body, and requests a minute.

Buckets are in memory, a process each: two replicas of the API allow twice as much.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convsvc.service.errors import TooLarge, TooManyRequests
from convsvc.service.problems import answer_error
from convsvc.units import in_bytes

# Read and thrown away before a body is refused: a connection that is cut while its client still writes loses the answer.
LINGER_BYTES = 8 << 20


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Buckets:
    """A token bucket a key. A key that was not heard of for longest is forgotten when there are `most_keys`."""

    def __init__(self, most_keys: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_keys, self._clock = most_keys, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, per_minute: float, burst: float | None = None) -> float:
        """Take one. 0.0 if there was one; else the seconds until there will be, and nothing is taken.

        >>> buckets = Buckets(clock=lambda: 0.0)
        >>> [buckets.take("a", 60, burst=2) for _ in range(3)]
        [0.0, 0.0, 1.0]
        """
        now, most = self._clock(), max(1.0, per_minute if burst is None else burst)
        bucket = self._buckets.pop(key, None) or _Bucket(most, now)
        bucket.left, bucket.at = min(most, bucket.left + (now - bucket.at) * per_minute / 60), now
        self._buckets[key] = bucket
        while len(self._buckets) > self._most_keys:
            self._buckets.popitem(last=False)
        if bucket.left < 1:
            return (1 - bucket.left) * 60 / per_minute
        bucket.left -= 1
        return 0.0

    def peek(self, key: str, per_minute: float) -> float:
        """What `take` would answer; nothing is taken, and a key that is not known is not made."""
        bucket = self._buckets.get(key)
        left = 1.0 if bucket is None else bucket.left + (self._clock() - bucket.at) * per_minute / 60
        return max(0.0, (1 - left) * 60 / per_minute)


def refuse_after(wait_s: float, what: str, *, do: str) -> None:
    """Raises TooManyRequests if `wait_s` is not 0."""
    if wait_s:
        seconds = math.ceil(wait_s)
        raise TooManyRequests(f"{what}: try again in {seconds} s", do=do, details={"retry_after_s": seconds})


def neighbourhood(address: str) -> str:
    """Addresses that count as one: an IPv6 network of 64 bits is given to one customer.

    >>> neighbourhood("10.0.0.7"), neighbourhood("2001:db8::1:2:3"), neighbourhood("@unix")
    ('10.0.0.7', '2001:db8::/64', '@unix')
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False)) if parsed.version == 6 else address


class BodyLimit:
    """ASGI middleware: no request's body is larger than `most_bytes`, on any route; 413 where it is."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        counted = _Counted(receive, send, self.most_bytes)
        if _declared_bytes(scope) > self.most_bytes:
            await counted.drain()
            await answer_error(Request(scope), self._too_large())(scope, receive, send)
            return
        await self.app(scope, counted.receive, counted.send)

    def _too_large(self) -> TooLarge:
        return too_large(self.most_bytes)


class _Counted:
    """A request's `receive` that counts, and gives up beyond the limit."""

    def __init__(self, receive: Receive, send: Send, most_bytes: int) -> None:
        self._receive, self._send, self._most_bytes = receive, send, most_bytes
        self._seen, self._answering = 0, False

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen <= self._most_bytes:
            return message
        if self._answering:  # an event stream listens here for its client's end; the answer has begun, so it can only stop
            return {"type": "http.disconnect"}
        if message.get("more_body", False):
            await self.drain()
        raise too_large(self._most_bytes)

    async def send(self, message: Message) -> None:
        self._answering = True
        await self._send(message)

    async def drain(self) -> None:
        left, more = LINGER_BYTES, True
        while more and left > 0:
            message = await self._receive()
            left -= len(message.get("body", b""))
            more = message.get("more_body", False)


def too_large(most_bytes: int) -> TooLarge:
    return TooLarge(f"a request's body is at most {in_bytes(most_bytes)}", details={"most_bytes": most_bytes})


def _declared_bytes(scope: Scope) -> int:
    found = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(found) if found.isdigit() else 0
