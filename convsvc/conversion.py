"""Run a job here: plan it, start an engine, drive it. What `convsvc convert` and the service's executor share."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from convsvc.errors import TargetError, TargetExists
from convsvc.roots import ANYWHERE, Roots
from convsvc.spec import Job, parse_job

# The ways of verifying that compute the source from what was written.
BACK = ("roundtrip", "full")

if TYPE_CHECKING:
    from convsvc.engine.base import Engine
    from convsvc.engine.driver import RunResult
    from convsvc.engine.listener import Listener
    from convsvc.execute.staging.holders import Holder
    from convsvc.execute.staging.workspace import Staging
    from convsvc.notes import Note
    from convsvc.plan.plan import Plan
    from convsvc.plan.records import Task


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
    if listener is not None:
        listener.planned(plan)
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
    task_timeout_s: float = 3600.0,
) -> RunResult:
    """Drive a plan to its end as its job's options say; `on_exists` overrides the job's. `holder` is whose run it is."""
    from convsvc.engine.driver import run_plan
    from convsvc.execute.check.already import check_already
    from convsvc.plan.reverse import reverse_tasks

    options = parse_job(plan.job).options
    todo = on_exists or options.on_exists
    if todo == "reuse" and (found := check_already(plan)) is not None:
        return already_done(plan, *found)
    back = reverse_tasks(plan) if options.verify in BACK else None
    try:
        return run_plan(
            plan,
            engine,
            verify=options.verify,
            on_exists="error" if todo == "reuse" else todo,
            listener=listener,
            should_stop=should_stop,
            reverse_tasks=back,
            holder=holder,
            task_timeout_s=task_timeout_s,
            opening=partial(_check_staged, options.verify),
        )
    except TargetExists:
        # Nobody held the target while it was looked at: who put it there since may have made the very same.
        if todo != "reuse" or (found := check_already(plan)) is None:
            raise
        return already_done(plan, *found)


def already_done(plan: Plan, report: str, notes: tuple[Note, ...]) -> RunResult:
    """The result of a job that found its target whole, with the notes of the run that made it."""
    from convsvc.engine.driver import RunResult

    return RunResult(plan.target_path, 0, 0, 0, len(plan.tasks), 0, {}, {}, notes, report, already_done=True)


def _check_staged(verify: str, staging: Staging) -> None:
    """What is staged opens as what was planned. With `full`, all of it that is no tensor is what was written, too, and safetensors and
    torch find in it what was planned. Raises VerifyError.
    """
    from convsvc.execute.check.files import check_frames, check_hashes, check_side_files
    from convsvc.execute.check.witness import call_witnesses
    from convsvc.plan.opened import check_opens

    check_opens(staging.plan, staging.inside)
    if verify != "full":
        return
    directory = os.open(staging.inside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check_frames(staging.plan, directory, staging.crcs())
        check_side_files(staging.plan, directory)
        check_hashes(staging.plan, directory)
        call_witnesses(staging.plan, directory, staging.crcs())
    finally:
        os.close(directory)


def verify(job: Job | dict[str, Any] | str, *, listener: Listener | None = None, roots: Roots = ANYWHERE) -> dict[str, Any]:
    """Whether the target of a job that was run is what the job writes: nothing is written, all of it is read.

    Its files have their planned sizes; it opens as what was planned, from its own files alone; side files and everything in its files that
    is no tensor are compared; then every element in every place, padding included, with what is computed again from the source; safetensors
    and torch open its files, in a process of their own. Where the job's `verify` is roundtrip or full, the source is computed from the
    target too.

    Answers {"target", "files", "tensors", "tasks", "bytes_read"}. Raises VerifyError at the first thing that differs, TargetError if
    there is no target at all, what planning raises for a source that is not as it was.
    """
    from convsvc.engine.listener import Listener
    from convsvc.plan.planner import make_plan
    from convsvc.plan.reverse import reverse_tasks

    wanted = parse_job(job)
    told = listener or Listener()
    # Of a comparison nothing is planned: that is refused.
    plan = make_plan(wanted.model_copy(update={"mode": "convert"}) if wanted.mode == "verify" else wanted, roots)
    told.planned(plan)
    back = reverse_tasks(plan) if wanted.options.verify in BACK else ()
    directory = _open_target(plan)
    try:
        bytes_read = _compare(plan, back, directory, told)
    finally:
        os.close(directory)
    numbers = {"files": len(plan.target_files), "tensors": len(plan.target_tensors), "tasks": len(plan.tasks)}
    return {"target": plan.target_path, **numbers, "bytes_read": bytes_read}


def _open_target(plan: Plan) -> int:
    try:
        return plan.roots.open(plan.target_path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        missing = [f"{os.path.join(plan.target_path, file.path)}: is not there" for file in plan.target_files[:20]]
        raise TargetError(f"{plan.target_path} is not what this job writes", facts=missing, do="run the job first") from None


def _compare(plan: Plan, back: tuple[Task, ...], directory: int, listener: Listener) -> int:
    """Bytes read. Raises VerifyError."""
    from convsvc.execute.check.files import check_frames, check_hashes, check_made, check_side_files, check_sizes
    from convsvc.execute.check.tensors import compare_back, compare_tensors
    from convsvc.execute.check.witness import call_witnesses
    from convsvc.plan.opened import check_opens

    read = 0

    def told(task: int, bytes_read: int) -> None:
        nonlocal read
        read += bytes_read
        listener.task_done(task, {"bytes_read": bytes_read})

    listener.phase("reopen", 0)
    check_sizes(plan, directory)
    check_side_files(plan, directory)
    check_made(plan, directory)
    check_opens(plan, plan.target_path, plan.roots)
    listener.phase("compare", len(plan.tasks))
    crcs = compare_tensors(plan, directory, told)
    check_frames(plan, directory, crcs)
    check_hashes(plan, directory)
    listener.phase("witness", 0)
    call_witnesses(plan, directory, crcs)
    if back:
        listener.phase("compare back", len(back))
        compare_back(plan, back, directory, told)
    return read
