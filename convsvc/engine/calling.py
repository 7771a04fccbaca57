"""Runs one call where it has arrived: finds its function, turns what it raises into JSON."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable
from typing import Any

from convsvc import __version__
from convsvc.engine.base import Call, Outcome
from convsvc.engine.said import hearing
from convsvc.errors import ConvsvcError, PlaceUnfit


def run_call(call: Call, worker: str, place: str = "") -> Outcome:
    """The call's outcome; never raises an Exception. One that is not a ConvsvcError becomes one, with its traceback in `details`."""
    with hearing() as said:
        try:
            value = _function(call.function)(call.payload)
        except ConvsvcError as error:
            return Outcome(call.id, error=error.as_dict(), worker=worker, place=place, said=said.lines)
        except Exception as error:
            return Outcome(call.id, error=unexpected(error).as_dict(), worker=worker, place=place, said=said.lines)
        return Outcome(call.id, value=value, worker=worker, place=place, said=said.lines)


def unexpected(error: BaseException) -> ConvsvcError:
    """The ConvsvcError that stands for any other exception."""
    return ConvsvcError(
        f"{type(error).__name__}: {error}",
        do="this is a fault of convsvc: please report it",
        details={"traceback": "".join(traceback.format_exception(error))},
    )


def lost(call_id: str, how: str, worker: str = "", place: str = "") -> Outcome:
    """The outcome of a call whose worker died or whose deadline passed."""
    error = ConvsvcError(how, details={"call": call_id, "worker": worker}).as_dict()
    return Outcome(call_id, error=error, lost=True, worker=worker, place=place)


def this_machine() -> str:
    """The place where engines without a cluster run their calls."""
    return os.uname().nodename


def _function(name: str) -> Callable[[dict[str, Any]], Any]:
    module, _, function = name.partition(":")
    try:
        found: Callable[[dict[str, Any]], Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise PlaceUnfit(
            f"{this_machine()}, which runs convsvc {__version__}, cannot do {name}: {error}",
            do="bring all machines to one version, with all that it needs installed; until then tasks go to those that have it",
        ) from error
    return found
