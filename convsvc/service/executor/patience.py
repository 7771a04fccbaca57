"""Reports to a job store that may be away for a while: said again until it hears them, for as long as the job is certainly ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from sqlalchemy.exc import SQLAlchemyError

from convsvc.errors import ServiceError
from convsvc.service.errors import StoreAway
from convsvc.service.store.claims import Claims
from convsvc.service.store.retrying import refuses
from convsvc.service.store.texts import clean_text

_log = logging.getLogger("convsvc.executor")

AWAY = (StoreAway, SQLAlchemyError)
PAUSE_S = 0.5


class PatientClaims:
    """Claims whose every method is called again while the store is away, until `check_held` raises LeaseLost.

    What the store refuses is no matter of time: that is a ServiceError, which fails the job. Tasks go on meanwhile: they need no store.
    A report that was written although its answer got lost is written again, which does no harm.
    """

    def __init__(self, claims: Claims, check_held: Callable[[], None]) -> None:
        self._claims, self._check_held = claims, check_held

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._claims, name)
        if not callable(found):
            return found
        return lambda *args, **more: self._until_heard(name, partial(found, *args, **more))

    def _until_heard(self, name: str, say: Callable[[], Any]) -> Any:
        while True:
            self._check_held()
            try:
                return say()
            except UnicodeError as error:
                raise _refused(name, error) from error
            except AWAY as error:
                if refuses(error):
                    raise _refused(name, error) from error
                _log.warning("the job store did not hear %r, it is told again: %s", name, str(error).splitlines()[0])
                time.sleep(PAUSE_S)


def _refused(name: str, error: BaseException) -> ServiceError:
    first = str(getattr(error, "orig", None) or error).splitlines()[0]
    return ServiceError(
        f"the job store does not take what it was told ({name})",
        facts=[f"{type(error).__name__}: {clean_text(first, 500)}"],
        do="this is a fault of convsvc: please report it",
    )


def patient(claims: Claims, check_held: Callable[[], None]) -> Claims:
    """`claims`, patient."""
    return cast(Claims, PatientClaims(claims, check_held))
