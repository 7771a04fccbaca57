"""`POST /plans`: what a job would do and need, as `convsvc plan` says it."""

from __future__ import annotations

from typing import Any

from convsvc.errors import JobError
from convsvc.roots import Roots
from convsvc.spec import Job


def summary_of_plan(job: Job, roots: Roots, memory_limit_bytes: int | None = None) -> dict[str, Any]:
    """The plan's summary with its forecast, and what would make the job fail now: `plan_views.PlanView` as JSON. Reads headers, writes
    nothing.

    Raises what planning raises, and JobError where a worker may need more memory than it may have: the executor would not start it.
    """
    # Here, since the planner and its families are half of what the API takes to start.
    from convsvc.execute.disk.faults import storage_error
    from convsvc.execute.forecast import check_memory, forecast
    from convsvc.execute.staging.obstacles import find_obstacles
    from convsvc.plan.planner import make_plan

    plan = make_plan(job, roots)
    check_memory(plan, memory_limit_bytes)
    try:
        needs = forecast(plan)
    except OSError as error:
        raise storage_error(error, job.target.path, "asking for the free space of") from error
    problems = [problem.as_dict() for problem in find_obstacles(plan)]
    return plan.summary() | {"needs": needs.as_dict(), "problems": problems}


def picture_of_job(job: Job, roots: Roots) -> dict[str, Any]:
    """The data of the picture of the job's plan. Reads headers, writes nothing.

    Raises what planning raises, and JobError for a job that compares: it has no plan.
    """
    from convsvc.pictures.of_plan import picture_of_plan
    from convsvc.plan.planner import make_plan

    if job.mode == "compare":
        raise JobError(
            "a job that compares two checkpoints has no plan, and no picture", do="draw either of them: convsvc inspect PATH --html OUT"
        )
    return picture_of_plan(make_plan(job, roots))
