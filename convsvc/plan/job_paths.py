"""The paths a job names, and whether it may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from convsvc.roots import Roots
from convsvc.spec import Job, dump_job


def job_paths(job: Job) -> dict[str, str]:
    """Every path the job names, by its field.

    >>> from convsvc.spec import parse_job
    >>> job_paths(parse_job('{"source": {"format": "huggingface", "path": "/a"}, "target": {"format": "mindspeed-llm", "path": "/b"}}'))
    {'source.path': '/a', 'target.path': '/b'}
    """
    dumped = dump_job(job)
    return {field: path for side in ("source", "target") for field, path in paths_in(dumped[side], side)}


def check_job_paths(job: Job, roots: Roots) -> None:
    """Raises PathRefused, naming the field, for the first path that does not lie in the roots.

    For a quick answer only: what is opened later is opened beneath the roots, as everything may have changed by then.
    """
    for field, path in job_paths(job).items():
        roots.check(path, field, inside=field == "target.path" and job.mode == "convert")


def paths_in(part: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """Every path in one side of a job's JSON, by its field, which begins with `where`."""
    for name, value in part.items():
        field = f"{where}.{name}"
        if isinstance(value, dict):
            yield from paths_in(value, field)
        elif name == "path" or name.endswith(("_path", "_dir")):
            yield field, value
