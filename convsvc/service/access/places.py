"""Where a job may read and write: every path in it, held against its tenant's roots."""

from __future__ import annotations

import os

from convsvc.errors import JobError
from convsvc.plan.job_paths import check_job_paths, job_paths
from convsvc.roots import ANYWHERE, Roots
from convsvc.service.access.identity import Caller
from convsvc.service.errors import Forbidden
from convsvc.spec import Job


def roots_of(caller: Caller) -> Roots:
    """Where the caller's jobs may read and write. Raises Forbidden if that is nowhere: his tenant has no roots yet."""
    if caller.roots is None:
        return ANYWHERE
    if caller.roots:
        return Roots(caller.roots)
    raise Forbidden(
        f"tenant {caller.tenant} has no roots, so its jobs may read and write nowhere",
        do=f"ask an administrator for: convsvc tenant set {caller.tenant} --root DIR",
        details={"tenant": caller.tenant},
    )


def check_places(job: Job, roots: Roots) -> None:
    """Raises JobError if a path is relative, PathRefused if one leads out of the roots."""
    relative = {field: path for field, path in job_paths(job).items() if not os.path.isabs(path)}
    if relative:
        raise JobError(
            "a job for the service has absolute paths: it runs in a directory of its own",
            facts=[f"{field}: {path} is relative" for field, path in relative.items()],
            do="write paths as they are on the service's machines, from / on",
            details={"fields": [{"field": field, "given": path} for field, path in relative.items()]},
        )
    check_job_paths(job, roots)
