"""Reports to a job store that may be away for a while: said again until it hears them, for as long as the job is certainly ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from sqlalchemy.exc import SQLAlchemyError

from convsvc.service.errors import StoreAway
from convsvc.service.store.claims import Claims

_log = logging.getLogger("convsvc.executor")

AWAY = (StoreAway, SQLAlchemyError)
PAUSE_S = 0.5


class PatientClaims:
    """Claims whose every method is called again while the store is away, until `check_held` raises LeaseLost.

    Tasks go on meanwhile: they need no store. A report that was written although its answer got lost is written again, which does no harm.
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
            except AWAY as error:
                _log.warning("the job store did not hear %r, it is told again: %s", name, str(error).splitlines()[0])
                time.sleep(PAUSE_S)


def patient(claims: Claims, check_held: Callable[[], None]) -> Claims:
    """`claims`, patient."""
    return cast(Claims, PatientClaims(claims, check_held))
