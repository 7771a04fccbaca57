"""Run a job here: plan it, start an engine, drive it. What `convsvc convert` and the service's executor share."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from convsvc.errors import TargetError
from convsvc.roots import ANYWHERE, Roots
from convsvc.spec import Job, parse_job

if TYPE_CHECKING:
    from convsvc.engine.base import Engine
    from convsvc.engine.driver import Listener, RunResult
    from convsvc.execute.holders import Holder
    from convsvc.plan.plan import Plan


def convert(
    job: Job | dict[str, Any] | str,
    *,
    engine: str = "process",
    workers: int | None = None,
    ray_address: str | None = None,
    memory_limit_bytes: int | None = None,
    listener: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
    roots: Roots = ANYWHERE,
) -> RunResult:
    """Convert a checkpoint on this machine (or, with `engine="ray"`, on a cluster) and wait until it is in place.

    `workers` defaults to what the engine finds. Raises the ConvsvcError that stopped it; what was written so far is in a
    staging directory beside the target, from which `on_exists: resume` goes on. Where a worker may need more than
    `memory_limit_bytes`, nothing is started: that is a JobError. What the job reads and writes must lie in `roots`.
    """
    from convsvc.engine import make_engine
    from convsvc.execute.forecast import check_memory
    from convsvc.plan.planner import make_plan

    plan = make_plan(parse_job(job), roots)
    check_memory(plan, memory_limit_bytes)
    with closing(make_engine(engine, workers=workers, ray_address=ray_address)) as running:
        return run(plan, running, listener=listener, should_stop=should_stop)


def run(
    plan: Plan,
    engine: Engine,
    *,
    on_exists: str | None = None,
    listener: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
    holder: Holder | None = None,
) -> RunResult:
    """Drive a plan to its end as its job's options say; `on_exists` overrides the job's. `holder` is whose run it is."""
    from convsvc.engine.driver import run_plan
    from convsvc.plan.opened import check_opens
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
        holder=holder,
        opening=check_opens,
    )


def verify(job: Job | dict[str, Any] | str) -> dict[str, Any]:
    """Compare the target of a job that was run with its source, byte for byte, in this process. Writes nothing.

    Answers {"target", "tasks", "bytes_read"}. Raises VerifyError at the first difference, TargetError if the target is not there or
    its files are not as large as planned, JobError if the job changes values so that they cannot be compared.
    """
    from convsvc.execute.task_files import extract_task
    from convsvc.execute.worker import Workplace, compare_task
    from convsvc.plan.planner import make_plan
    from convsvc.plan.reverse import reverse_tasks

    plan = make_plan(parse_job(job))
    tasks = reverse_tasks(plan)
    _check_target_files(plan)
    written, read = (plan.target_files, plan.target_tensors), (plan.source_files, plan.source_tensors)
    directory = plan.roots.open(plan.target_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        place = Workplace(directory, "verify")
        done = [compare_task(extract_task(task, plan.fingerprint, written, read), place) for task in tasks]
    finally:
        os.close(directory)
    return {"target": plan.target_path, "tasks": len(tasks), "bytes_read": sum(each.bytes_read for each in done)}


def _check_target_files(plan: Plan) -> None:
    faults = []
    for file in plan.target_files:
        path = os.path.join(plan.target_path, file.path)
        size = os.path.getsize(path) if os.path.isfile(path) else None
        if size != file.size_bytes:
            faults.append(f"{path}: {'is not there' if size is None else f'has {size} bytes'}, expected {file.size_bytes} bytes")
    if faults:
        raise TargetError(f"{plan.target_path} is not what this job writes", facts=faults[:20], do="run the job first")
