"""What an engine is: a place where calls run. It knows no plan and no checkpoint.

    engine.submit(Call("task-3", "convsvc.execute.worker:run_task", {"staging": ..., "task": 3}, timeout_s=900))
    for outcome in engine.wait(timeout_s=1.0): ...

`submit` never blocks for longer than it takes to hand the call over; the driver keeps the window. `wait` returns as soon as at
least one call ended, or after `timeout_s` with none. A call's function is named "module:function", takes the payload (JSON)
and returns JSON. Calls are at-least-once: `lost` says that the worker died or the deadline passed, and the call may be
submitted again; a call whose own code raised is not lost but has `error` (a ConvsvcError in JSON form, `as_dict`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Call:
    """`avoid` are places (`Outcome.place`) that shall not run it; where no other is left, it is not run.

    `memory_bytes` is what it may need, for engines that place calls by it; 0 says that nobody knows.
    """

    id: str
    function: str
    payload: dict[str, Any]
    timeout_s: float
    avoid: frozenset[str] = frozenset()
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: a value, an error, or lost (with `error` saying how). `said` is what it logged (see `said.py`).

    `worker` names machine and process for people; `place` is the machine, as `Engine.places` knows it: empty where nobody knows.
    """

    id: str
    value: Any = None
    error: dict[str, Any] | None = None
    lost: bool = False
    worker: str = ""
    place: str = ""
    said: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of an engine: its id, as `Outcome.place` has it, its name for people, and how many calls it runs at once."""

    id: str
    host: str
    slots: int


class Engine(Protocol):
    """Runs calls. `slots` is how many run at once, `places` where they may run; not thread-safe.

    `nodes` tells of those places; it asks nobody, and may be read in any thread.
    """

    name: str

    @property
    def nodes(self) -> tuple[Node, ...]: ...

    @property
    def slots(self) -> int: ...

    @property
    def places(self) -> frozenset[str]: ...

    def submit(self, call: Call) -> None: ...

    def wait(self, timeout_s: float) -> list[Outcome]: ...

    def cancel_all(self, grace_s: float) -> None:
        """Ask running calls to stop, forget waiting ones; after `grace_s` end their workers."""

    def close(self) -> None: ...
