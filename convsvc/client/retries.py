"""When a request is sent again, and how long after. One policy for the sync and the async client; tenacity keeps the time.

Again:  no connection, a connection that broke, an answer cut short; 502, 503 and 504 from something between us and the service;
        429, and 503 where the service says when to come back (Retry-After).
Never:  a request that does something else when it comes twice; a definite answer: success, refusal, the service's own failure.

Importing tenacity takes 8 ms beside httpx: no burden for `convsvc submit`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from tenacity import RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from convsvc.client.answers import UNREADABLE, error_of, not_ours, problem_in
from convsvc.client.requests import Answer, Request
from convsvc.errors import ConvsvcError, ServiceError

if TYPE_CHECKING:
    import httpx

    from convsvc.client.address import Address

RETRY_FOR_S = 30.0  # pauses included: a Retry-After beyond that is not waited for
ATTEMPTS = 4  # where nothing says when to come back: about two seconds
BUSY = 429
PASSING = frozenset({502, 503, 504})

# Everybody who was refused at once shall not come back at once.
_backoff = wait_exponential(multiplier=0.2, max=5) + wait_random(0, 0.3)


class Again(Exception):
    """Nobody knows what became of the request, or it was put off: `error` if this was the last attempt, `after_s` if we were told."""

    def __init__(self, error: ConvsvcError, after_s: float | None = None) -> None:
        super().__init__(error)
        self.error, self.after_s = error, after_s


def retrying(request: Request[Any], retry_for_s: float, on_wait: Callable[[float, ConvsvcError], None] | None = None) -> dict[str, Any]:
    """The arguments of tenacity's `Retrying` and `AsyncRetrying` for a request whose attempts raise Again."""
    return {
        "retry": retry_if_exception_type(Again),
        "wait": _pause_s,
        "stop": _enough(request, retry_for_s if request.patience_s is None else request.patience_s),
        "retry_error_callback": _give_up,
        "before_sleep": partial(_tell, on_wait) if on_wait else None,
    }


def _tell(on_wait: Callable[[float, ConvsvcError], None], state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, Again):
        on_wait(state.upcoming_sleep, failure.error)


def read_answer(request: Request[Answer], url: str, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """The request's answer. Raises Again, or the error that a definite answer is."""
    if not 200 <= status < 300:
        raise refusal(url, status, headers, body)
    try:
        data = json.loads(body)
    except ValueError:
        raise Again(ServiceError(f"{url} answered with something that is not JSON, or was cut short")) from None
    try:
        return request.read(data)
    except UNREADABLE:
        raise not_ours(url) from None


def refusal(url: str, status: int, headers: Mapping[str, str], body: bytes) -> ConvsvcError | Again:
    """What an answer that is not a success is raised as."""
    error, after_s = error_of(url, status, body), retry_after_s(headers.get("retry-after"))
    if status == BUSY:
        told = error.details.get("retry_after_s") if after_s is None else after_s
        return Again(error, float(told) if isinstance(told, int | float) else None)
    if status not in PASSING:
        return error
    problem = problem_in(body)
    definite = problem is not None and not problem.get("retryable") and after_s is None
    return error if definite else Again(error, after_s)


def lost(address: Address, failure: httpx.TransportError) -> Again:
    """What a connection that could not be made, or broke, is raised as."""
    error = ServiceError(
        f"no convsvc service answers at {address.shown}",
        facts=[str(failure) or type(failure).__name__],
        do="start one with `convsvc serve`, or give the right address with --url or $CONVSVC_URL",
        details={"url": address.shown},
    )
    return Again(error)


def retry_after_s(header: str | None) -> float | None:
    """Seconds to wait as a Retry-After header says: a number, or a time.

    >>> retry_after_s("3"), retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after_s("soon"), retry_after_s(None)
    (3.0, 0.0, None, None)
    """
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    from email.utils import parsedate_to_datetime

    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds())


def _pause_s(state: RetryCallState) -> float:
    after_s = _failure(state).after_s
    return _backoff(state) if after_s is None else after_s + wait_random(0, 0.3)(state)


def _enough(request: Request[Any], retry_for_s: float) -> Callable[[RetryCallState], bool]:
    def enough(state: RetryCallState) -> bool:
        if not request.again or (state.seconds_since_start or 0) + state.upcoming_sleep > retry_for_s:
            return True
        counted = request.patience_s is None and _failure(state).after_s is None
        return counted and state.attempt_number >= ATTEMPTS

    return enough


def _give_up(state: RetryCallState) -> NoReturn:
    failure = _failure(state)
    raise failure.error from failure.__cause__


def _failure(state: RetryCallState) -> Again:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, Again), "tenacity asks after an Again only"
    return failure
