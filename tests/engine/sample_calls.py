"""Functions that the contract tests ask engines to call."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from convsvc.errors import NoSpace


def double(payload: dict[str, Any]) -> dict[str, Any]:
    return {"number": payload["number"] * 2, "pid": os.getpid()}


def fill_the_disk(payload: dict[str, Any]) -> None:
    raise NoSpace("the disk is full", details={"needed": payload["number"]})


def speak(payload: dict[str, Any]) -> str:
    log = logging.getLogger("convsvc.execute.worker")
    log.info("read %d", payload["number"])
    log.warning("slow")
    return "spoke"


def divide_by_zero(payload: dict[str, Any]) -> float:
    return payload["number"] / 0


def die(payload: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def rest(payload: dict[str, Any]) -> str:
    """Touches a file, rests, touches another one."""
    Path(payload["begun"]).touch()
    time.sleep(payload["seconds"])
    Path(payload["ended"]).touch()
    return "rested"


def resources(payload: dict[str, Any]) -> dict[str, float]:
    """What Ray has given to the call."""
    import ray

    return dict(ray.get_runtime_context().get_assigned_resources())
