"""The other end of `ProcessEngine`: runs the calls that come through a socket, one after the other."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection

from convsvc.engine.base import Call
from convsvc.engine.calling import run_call
from convsvc.engine.said import speak_up


def serve(descriptor: int) -> None:
    """Runs calls until the parent closes its end or is gone."""
    connection: Connection = Connection(descriptor)
    name = f"process-{os.getpid()}"
    speak_up()
    while True:
        try:
            call_id, function, payload = connection.recv()
            outcome = run_call(Call(call_id, function, payload, 0.0), name, "")
            connection.send((outcome.value, outcome.error, outcome.said))
        except (EOFError, OSError):
            return
