"""Trying a transaction again that failed through nobody's fault: the one place where that is decided."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from convsvc.service.errors import StoreAway

ATTEMPTS = 6  # with the waits below about three seconds, at most six: a PostgreSQL that restarts is back by then, or takes long

# https://www.postgresql.org/docs/15/errcodes-appendix.html
_PASSING = {
    "25P03",  # idle in transaction for too long
    "40001",  # serialization failure
    "40P01",  # deadlock detected
    "53300",  # too many connections
    "55P03",  # lock not available: lock_timeout
    "57P01",  # admin shutdown
    "57P02",  # crash shutdown
    "57P03",  # cannot connect now: it starts
}

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger(__name__)


def retried(transaction: Callable[P, R]) -> Callable[P, R]:
    """The function, called again with a growing pause if its transaction failed for a reason that passes, a few times at most.

    The function must be one transaction and may not have changed anything else. A connection that is lost while it commits leaves open
    whether it did, so it must also do no harm if it is done twice. Raises StoreAway if the database stays away.
    """

    @functools.wraps(transaction)
    def tried(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return _retrying(transaction, *args, **kwargs)
        except (DBAPIError, PoolTimeout) as error:
            if isinstance(error, PoolTimeout) or passes(error):
                raise store_away(error) from error
            raise

    return tried


def passes(error: BaseException) -> bool:
    """Whether the same transaction may succeed a little later."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return "locked" in str(error.orig)  # errors have names since Python 3.11 only
    code = getattr(error.orig, "sqlstate", None)
    if code is None:  # the server said nothing: no connection could be made, or it was lost
        return error.connection_invalidated or isinstance(error, OperationalError)
    return code in _PASSING or code.startswith("08")


def refuses(error: BaseException) -> bool:
    """Whether the database does not take what it was given, however often it is told: all else it may take a little later."""
    wrong_value = isinstance(error, StatementError) and not isinstance(error, DBAPIError)
    return wrong_value or isinstance(error, DataError | IntegrityError | UnicodeError)


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.warning("transaction %d of %d failed, it is tried again: %s", state.attempt_number, ATTEMPTS, str(error).splitlines()[0])


_retrying = Retrying(
    retry=retry_if_exception(passes),
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.1, max=2),
    before_sleep=_say,
    reraise=True,
)


def store_away(error: Exception) -> StoreAway:
    """What a database's error means to whoever asked."""
    first = str(getattr(error, "orig", None) or error).splitlines()[0]
    return StoreAway(
        "the job store's database does not answer", facts=[f"{type(error).__name__}: {first}"], do="try again", details={"retry_after_s": 5}
    )
