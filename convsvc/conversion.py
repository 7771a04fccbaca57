"""Run a job here: plan it, start an engine, drive it. What `convsvc convert` and the service's executor share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from convsvc.spec import Job, parse_job

if TYPE_CHECKING:
    from convsvc.engine.base import Engine
    from convsvc.engine.driver import Listener, RunResult
    from convsvc.plan.plan import Plan


def convert(
    job: Job | dict[str, Any] | str,
    *,
    engine: str = "process",
    workers: int | None = None,
    ray_address: str | None = None,
    listener: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Convert a checkpoint on this machine (or, with `engine="ray"`, on a cluster) and wait until it is in place.

    `workers` defaults to what the engine finds. Raises the ConvsvcError that stopped it; what was written so far is in a
    staging directory beside the target, from which `on_exists: resume` goes on.
    """
    from convsvc.engine import make_engine
    from convsvc.plan.planner import make_plan

    plan = make_plan(parse_job(job))
    with closing(make_engine(engine, workers=workers, ray_address=ray_address)) as running:
        return run(plan, running, listener=listener, should_stop=should_stop)


def run(
    plan: Plan,
    engine: Engine,
    *,
    on_exists: str | None = None,
    listener: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Drive a plan to its end as its job's options say; `on_exists` overrides the job's."""
    from convsvc.engine.driver import run_plan
    from convsvc.plan.reverse import reverse_tasks

    options = parse_job(plan.job).options
    back = reverse_tasks(plan) if options.verify == "roundtrip" else None
    return run_plan(
        plan,
        engine,
        verify=options.verify,
        on_exists=on_exists or options.on_exists,
        listener=listener,
        should_stop=should_stop,
        reverse_tasks=back,
    )
