"""Where calls run: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from convsvc.engine.base import Call, Engine, Outcome
from convsvc.errors import JobError

ENGINES = ("inline", "process", "ray")


def make_engine(name: str, *, workers: int | None = None, ray_address: str | None = None, autoscaling: bool = False) -> Engine:
    """The engine called `name`: "inline", "process" or "ray".

    `workers` is how many calls run at once; by default one a CPU (inline: always one). `ray_address` is a running cluster's; without it
    Ray is started here for as long as the engine is open; with `autoscaling` it is asked for more than it has.

    Raises JobError for another name.
    """
    if name == "inline":
        from convsvc.engine.inline import InlineEngine

        return InlineEngine()
    if name == "process":
        from convsvc.engine.process import ProcessEngine

        return ProcessEngine(workers)
    if name == "ray":
        from convsvc.engine.ray import RayEngine

        return RayEngine(ray_address, workers, autoscaling=autoscaling)
    raise JobError(f"there is no engine {name!r}", do=f"choose one of {', '.join(ENGINES)}")


__all__ = ["ENGINES", "Call", "Engine", "Outcome", "make_engine"]
