"""Runs calls as Ray tasks, on a cluster or on a Ray of its own for as long as the engine is open.

Paths and counters pass through Ray, never tensors. Ray retries nothing: the driver does. Settings are those measured with Ray
2.60; see `ENVIRONMENT`.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections import deque
from time import monotonic, sleep
from typing import Any

from convsvc.engine.base import Call, Outcome
from convsvc.engine.calling import lost, run_call, unexpected
from convsvc.engine.ray_slots import Slots
from convsvc.engine.said import speak_up
from convsvc.errors import EngineAway

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A pulled cable is noticed after 16 s instead of 87 s.
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_grpc_keepalive_time_ms": "5000",
    "RAY_grpc_keepalive_timeout_ms": "5000",
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "5000",
    # How long Ray waits for a head that is gone before it ends this process; 60 s by default.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "30",
    # Ray 2.60 warns of a change in how it hides GPUs; there are none in use here.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# The least that Ray accepts is 75 MiB.
OBJECT_STORE_BYTES = 80 << 20
GET_TIMEOUT_S = 30.0


class RayEngine:
    """An engine whose slots are CPUs of a Ray cluster: that at `address`, or a local one of `slots` CPUs. They follow its nodes.

    `slots` bounds them. When the head dies, Ray ends this process after a while, from C++: whoever needs to go on must be another process.

    With an address, RAY_AUTH_MODE and RAY_AUTH_TOKEN must be those of the cluster. A local Ray gets a token of its own, which
    is kept in this process's environment and never written to a file. Raises EngineAway where Ray does not start or answer.
    """

    name = "ray"

    def __init__(self, address: str | None = None, slots: int | None = None) -> None:
        self._temporary: str | None = None
        self._ray = _import_ray(local=address is None)
        self._owns_ray = not self._ray.is_initialized()
        if self._owns_ray:
            self._start(address, slots)
        self._slots = Slots(self._cpus, slots)
        self._remote = self._ray.remote(num_cpus=1, max_retries=0)(_run_on_ray)
        self._waiting: deque[Call] = deque()
        self._running: dict[Any, tuple[Call, float]] = {}

    @property
    def slots(self) -> int:
        return self._slots.count

    def _cpus(self) -> float:
        return float(self._ray.cluster_resources().get("CPU", 1))

    def submit(self, call: Call) -> None:
        self._waiting.append(call)
        self._hand_out()

    def wait(self, timeout_s: float) -> list[Outcome]:
        until = monotonic() + timeout_s
        while True:
            outcomes = self._collect(until)
            self._hand_out()
            if outcomes or monotonic() >= until:
                return outcomes

    def cancel_all(self, grace_s: float) -> None:
        """Forgets waiting calls, waits up to `grace_s` for running ones, then ends their worker processes."""
        self._waiting.clear()
        until = monotonic() + grace_s
        while self._running and monotonic() < until:
            self._collect(until)
        for reference in list(self._running):
            self._kill(reference)

    def close(self) -> None:
        """Ends what this engine started: its calls, and Ray itself only if it was not running before."""
        self._slots.close()
        self._waiting.clear()
        for reference in list(self._running):
            self._kill(reference)
        if self._owns_ray:
            self._ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _start(self, address: str | None, slots: int | None) -> None:
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            if address is not None:
                self._ray.init(address=address, **quiet)
                return
            # Ray puts sockets there, whose paths may be 107 bytes long at most.
            self._temporary = tempfile.mkdtemp(prefix="cvs-", dir="/tmp")
            self._ray.init(
                address="local",
                num_cpus=slots or len(os.sched_getaffinity(0)),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                _temp_dir=self._temporary,
                **quiet,
            )
        except Exception as error:
            self._owns_ray = False
            where = f"at {address}" if address else "on this machine"
            raise EngineAway(
                f"Ray {where} did not start or answer: {error}",
                do="check the address, RAY_AUTH_MODE and RAY_AUTH_TOKEN, or use the process engine",
            ) from error

    def _hand_out(self) -> None:
        # Not more than the slots: a call's deadline begins when it is handed to Ray.
        while self._waiting and len(self._running) < self._slots.count:
            call = self._waiting.popleft()
            reference = self._remote.remote(call)
            self._running[reference] = (call, monotonic() + call.timeout_s)

    def _collect(self, until: float) -> list[Outcome]:
        """What ended until then; returns at once when something has."""
        deadline = min((late for _, late in self._running.values()), default=until)
        remaining = max(0.0, min(until, deadline) - monotonic())
        if not self._running:
            sleep(remaining)
            return []
        try:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=remaining)
        except self._ray.exceptions.RayError as error:
            raise EngineAway(f"Ray does not answer any more: {type(error).__name__}", do="look at the cluster's head") from error
        ended = [self._receive(reference) for reference in ready]
        late = [reference for reference, (_, late) in self._running.items() if late <= monotonic()]
        return ended + [self._overdue(reference) for reference in late]

    def _receive(self, reference: Any) -> Outcome:
        call, _ = self._running.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference, timeout=GET_TIMEOUT_S)
            return outcome
        except self._ray.exceptions.RayTaskError as error:  # convsvc is not there, or is another version
            return Outcome(call.id, error=unexpected(error).as_dict())
        except self._ray.exceptions.RayError as error:
            return lost(call.id, f"its Ray worker was lost: {type(error).__name__}")

    def _overdue(self, reference: Any) -> Outcome:
        call, _ = self._running[reference]
        self._kill(reference)
        return lost(call.id, f"not done after {call.timeout_s:g} s; its Ray worker was ended")

    def _kill(self, reference: Any) -> None:
        del self._running[reference]
        try:
            self._ray.cancel(reference, force=True)
        except Exception:  # it ended meanwhile, or Ray did
            logging.getLogger(__name__).debug("canceling a Ray task failed", exc_info=True)


def _import_ray(*, local: bool) -> Any:
    """Ray reads its environment when it is imported and started; one that the caller has imported keeps to what it has read."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if local and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # Without these Ray makes a token and writes it to ~/.ray, readable by all.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    return ray


def _run_on_ray(call: Call) -> Outcome:
    speak_up()
    return run_call(call, f"ray-{os.uname().nodename}-{os.getpid()}")
