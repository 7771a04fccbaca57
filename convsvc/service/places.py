"""Where a job may read and write: every path in it, held against its tenant's roots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from convsvc.errors import JobError
from convsvc.roots import Roots
from convsvc.service.errors import Forbidden
from convsvc.service.identity import Caller
from convsvc.spec import Job


def paths_of(job: Job) -> list[tuple[str, str]]:
    """Every path in the job, with the field that names it. A field is a path if it is called `path`, or `*_path` or `*_dir`. Pure."""
    return list(_paths_in("", job.model_dump(mode="json")))


def check_places(job: Job, caller: Caller) -> None:
    """Raises JobError if a path is relative, Forbidden if the caller's tenant has no roots, PathRefused if a path leads out of them."""
    paths = paths_of(job)
    relative = [f"{field}: {path}" for field, path in paths if not os.path.isabs(path)]
    if relative:
        raise JobError(
            "a job for the service has absolute paths: it runs in a directory of its own",
            facts=[f"{fact} is relative" for fact in relative],
            do="write paths as they are on the service's machines, from / on",
            details={"fields": [{"field": field, "given": path} for field, path in paths if not os.path.isabs(path)]},
        )
    if caller.roots is None:
        return
    if not caller.roots:
        raise Forbidden(
            f"tenant {caller.tenant} has no roots, so its jobs may read and write nowhere",
            do=f"ask an administrator for: convsvc tenant set {caller.tenant} --root DIR",
            details={"tenant": caller.tenant},
        )
    roots = Roots(caller.roots)
    for field, path in paths:
        roots.check(path, field)


def _paths_in(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths_in(f"{field}.{name}" if field else name, item)
    elif isinstance(value, str) and is_path_field(field):
        yield field, value


def is_path_field(field: str) -> bool:
    """Whether a field, by its dotted name, holds a path.

    >>> [is_path_field(field) for field in ("source.path", "target.config_dir", "name")]
    [True, True, False]
    """
    last = field.rpartition(".")[2]
    return last == "path" or last.endswith(("_path", "_dir"))
