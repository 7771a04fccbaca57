"""Runs calls as Ray tasks, on a cluster or on a Ray of its own for as long as the engine is open.

Paths and counters pass through Ray, never tensors. Ray retries nothing: the driver does. Settings are those measured with Ray
2.60; see `ENVIRONMENT`.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from convsvc.engine.base import Call, Node, Outcome
from convsvc.engine.calling import lost, run_call, unexpected
from convsvc.engine.ray_home import RayHome
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
# How long a cluster has to let this process in. Ray itself would try for minutes.
CONNECT_S, JOIN_S = 3.0, 25.0
JOINING = "ray-init"
# Calls handed to Ray for each of its CPUs where an autoscaler may answer.
AHEAD = 2
# The label that every node has (ray/util/placement_group.py, NODE_ID_LABEL_KEY); selectors are of Ray 2.49.
NODE_ID = "ray.io/node-id"
_NOTES, _NAMESPACE = b"convsvc-call|", b"convsvc"


class RayEngine:
    """An engine whose slots are CPUs of a Ray cluster: that at `address`, or a local one of `slots` CPUs. They follow its nodes.

    `slots` bounds them. A call that says how much memory it needs runs where as much is free, as Ray counts it. With `autoscaling` twice as
    many calls are handed to Ray as it has CPUs: what waits there is what an autoscaler goes by.

    When the head dies, Ray ends this process after a while, from C++: whoever needs to go on must be another process.

    With an address, RAY_AUTH_MODE and RAY_AUTH_TOKEN must be those of the cluster. A local Ray gets a token of its own, which
    is kept in this process's environment and never written to a file. Raises EngineAway where Ray does not start or answer.
    """

    name = "ray"

    def __init__(self, address: str | None = None, slots: int | None = None, *, autoscaling: bool = False) -> None:
        self._home: RayHome | None = None
        self._ray = _import_ray(local=address is None)
        self._owns_ray = not self._ray.is_initialized()
        if self._owns_ray:
            self._start(address, slots)
        self._nodes: tuple[Node, ...] = ()
        self._most_memory, self._ahead = 0, AHEAD if autoscaling else 1
        self._slots = Slots(self._cpus, slots)
        self._remote = self._ray.remote(num_cpus=1, max_retries=0)(_run_on_ray)
        # Of our own side, not of a worker: the raylet beside this process, the head, or what it keeps for us. Nothing runs here any more.
        self._gone = (
            self._ray.exceptions.LocalRayletDiedError, self._ray.exceptions.RaySystemError, self._ray.exceptions.RpcError,
            self._ray.exceptions.OwnerDiedError,
        )  # fmt: skip
        self._waiting: deque[Call] = deque()
        self._running: dict[Any, tuple[Call, float]] = {}

    @property
    def slots(self) -> int:
        return self._slots.count

    @property
    def places(self) -> frozenset[str]:
        """The nodes that have CPUs, by their ids; as they were some seconds ago."""
        return frozenset(node.id for node in self._nodes)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self._nodes

    def _cpus(self) -> float:
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        cpus = {(node["NodeID"], node["NodeManagerHostname"]): node["Resources"].get("CPU", 0) for node in alive}
        self._most_memory = int(max((node["Resources"].get("memory", 0) for node in alive if node["Resources"].get("CPU")), default=0))
        self._nodes = tuple(Node(*node, int(count)) for node, count in sorted(cpus.items()) if count)
        return float(sum(cpus.values()) or 1)

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
        if self._home is not None:
            self._home.remove()

    def _start(self, address: str | None, slots: int | None) -> None:
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            if address is not None:
                _check_reachable(address)
                _within(JOIN_S, lambda: self._ray.init(address=address, **quiet))
                return
            self._home = RayHome()
            local: dict[str, Any] = {
                "num_cpus": slots or len(os.sched_getaffinity(0)),
                "_temp_dir": str(self._home.path),
                "include_dashboard": False,
            }
            # Not in a thread of its own: Ray's processes end with the thread that started them.
            self._ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, **local, **quiet)
        except Exception as error:
            self._owns_ray = False
            where = f"at {address}" if address else "on this machine"
            raise EngineAway(
                f"Ray {where} did not start or answer: {error}",
                do="check the address, RAY_AUTH_MODE and RAY_AUTH_TOKEN, or use the process engine",
            ) from error

    def _hand_out(self) -> None:
        while self._waiting and len(self._running) < self._slots.count * self._ahead:
            call = self._waiting.popleft()
            reference = self._task_for(call).remote(call)
            self._running[reference] = (call, monotonic() + call.timeout_s)

    def _task_for(self, call: Call) -> Any:
        # Of a machine that has less than it may need a call gets all: it is better tried there than waited for for ever.
        more: dict[str, Any] = {"memory": memory} if (memory := min(call.memory_bytes, self._most_memory)) else {}
        if not call.avoid:
            return self._remote.options(**more) if more else self._remote
        # Anywhere all the same if those are all that is left by then: it fails there quickly, and the driver hears of it.
        elsewhere = {NODE_ID: f"!in({','.join(sorted(call.avoid))})"}
        return self._remote.options(label_selector=elsewhere, fallback_strategy=[{"label_selector": {}}], **more)

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
            raise _away(error) from error
        ended = [self._receive(reference) for reference in ready]
        late = [reference for reference, (_, late) in self._running.items() if late <= monotonic()]
        return ended + [outcome for reference in late if (outcome := self._overdue(reference)) is not None]

    def _receive(self, reference: Any) -> Outcome:
        call, _ = self._running.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference, timeout=GET_TIMEOUT_S)
            return outcome
        except self._ray.exceptions.RayTaskError as error:  # convsvc is not there, or is another version
            return Outcome(call.id, error=unexpected(error).as_dict())
        except self._gone as error:
            raise _away(error) from error
        except self._ray.exceptions.RayError as error:
            worker, place = self._whereabouts(call)
            return lost(call.id, f"its Ray worker was lost: {type(error).__name__}", worker, place)

    def _whereabouts(self, call: Call) -> tuple[str, str]:
        """(worker, node) of a call that did not come back, as its worker had noted; empty where it had not, or the head is away."""
        try:
            for key in _kv()._internal_kv_list(_NOTES, namespace=_NAMESPACE):
                if _kv()._internal_kv_get(key, namespace=_NAMESPACE) == call.id.encode():
                    _, worker, place = key.decode().split("|")
                    return worker, place
        except Exception:  # whatever Ray raises while its head is away
            logging.getLogger(__name__).debug("where a call was is not known", exc_info=True)
        return "", ""

    def _overdue(self, reference: Any) -> Outcome | None:
        """None for a call that no worker has begun yet: it waits in Ray for a CPU, and its time begins anew."""
        call, _ = self._running[reference]
        worker, place = self._whereabouts(call)
        if not worker:
            self._running[reference] = (call, monotonic() + call.timeout_s)
            return None
        self._kill(reference)
        return lost(call.id, f"not done after {call.timeout_s:g} s; its Ray worker was ended", worker, place)

    def _kill(self, reference: Any) -> None:
        del self._running[reference]
        try:
            self._ray.cancel(reference, force=True)
        except Exception:  # it ended meanwhile, or Ray did
            logging.getLogger(__name__).debug("canceling a Ray task failed", exc_info=True)


def _check_reachable(address: str) -> None:
    """Raises OSError at once where nobody listens: Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def _within(seconds: float, act: Callable[[], object]) -> None:
    """Does it in a thread, so that whoever waits can give up. Raises what `act` raises, TimeoutError if it takes too long."""
    if any(thread.name == JOINING for thread in threading.enumerate()):
        raise TimeoutError("an earlier attempt has not ended yet")  # Ray would mix up the two
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            act()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run, name=JOINING, daemon=True).start()
    try:
        error = ended.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error


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


def _away(error: Exception) -> EngineAway:
    return EngineAway(
        f"Ray does not answer any more: {type(error).__name__}", do="look at the cluster's head, and at the raylet beside this process"
    )


def _kv() -> Any:
    """The head's store of small values. Its functions are Ray's own, and as old as Ray."""
    import ray.experimental.internal_kv

    return ray.experimental.internal_kv


def _run_on_ray(call: Call) -> Outcome:
    speak_up()
    import ray

    node = ray.get_runtime_context().get_node_id()
    worker = f"ray-{os.uname().nodename}-{os.getpid()}"
    # One note a worker, written over by its next call: who never comes back can be looked for.
    _kv()._internal_kv_put(f"{_NOTES.decode()}{worker}|{node}".encode(), call.id.encode(), overwrite=True, namespace=_NAMESPACE)
    return run_call(call, worker, node)
