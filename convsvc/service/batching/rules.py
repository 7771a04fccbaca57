"""What a batch is told: one job as a template, and the sources, layouts or jobs in which it is repeated. Pure."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from convsvc.errors import JobError
from convsvc.job_text import parse_text
from convsvc.spec import Job, dump_job, parse_job
from convsvc.spec.faults import in_words
from convsvc.spec.fields import Strict, Text

MOST_JOBS = 1000
Part = Annotated[dict[str, Any], Field()]
Parts = Annotated[list[Part], Field(min_length=1, max_length=MOST_JOBS)]


class BatchSpec(Strict):
    """A batch as it is asked for: every source with every target, or a list of jobs; what they share stands in `job`."""

    name: Text | None = Field(None, max_length=200)
    job: dict[str, Any] = Field({}, description="What all jobs have: a job, of which the rest may say less or something else.")
    sources: Parts | None = Field(None, description="Sources of a job, each laid over job.source; each one is converted into every target.")
    targets: Parts | None = Field(
        None,
        description="Targets of a job, each laid over job.target. In their paths {source} is the source's last name, {number} the job's "
        "number in the batch, from 0.",
    )
    jobs: Parts | None = Field(
        None, description='Jobs, each laid over job, instead of sources and targets. In their `after` "#0" is the first of them.'
    )

    @model_validator(mode="after")
    def _one_way(self) -> BatchSpec:
        if self.jobs is not None and (self.sources or self.targets):
            raise ValueError("jobs excludes sources and targets: state one or the other")
        if self.jobs is None and not self.sources and not self.targets:
            raise ValueError("sources, targets or jobs must be stated")
        return self


def parse_batch(data: Any) -> tuple[BatchSpec, list[Job]]:
    """The batch that `data` (a dict, or JSON or YAML text) describes, and its jobs in order. Raises JobError."""
    if isinstance(data, str | bytes):
        data = parse_text(data, "the batch")
    if not isinstance(data, dict):
        raise JobError(f"a batch is an object with job and sources, targets or jobs, not {type(data).__name__}")
    try:
        spec = BatchSpec.model_validate(data)
    except ValidationError as error:
        faults = [_fault(item) for item in error.errors(include_url=False)[:50]]
        raise JobError(f"the batch has {len(faults)} wrong field{'s' if len(faults) > 1 else ''}", facts=faults) from None
    return spec, jobs_of(spec)


def jobs_of(spec: BatchSpec) -> list[Job]:
    """The batch's jobs, in order. Raises JobError naming the first that is wrong by its number, or two with one target."""
    parts = spec.jobs or [_pair(*sides) for sides in product(spec.sources or [{}], spec.targets or [{}])]
    if len(parts) > MOST_JOBS:
        raise JobError(f"the batch has {len(parts)} jobs", facts=[f"at most {MOST_JOBS} go into one"], do="submit several batches")
    found = [_job(laid_over(part, spec.job), number) for number, part in enumerate(parts)]
    places: dict[str, int] = {}
    for number, job in enumerate(found):
        first = places.setdefault(os.path.normpath(job.target.path), number)
        if first != number and job.mode == "convert" == found[first].mode:
            raise JobError(
                f"jobs {first} and {number} of the batch have the same target: {job.target.path}",
                do="write {source} or {number} into target.path, or a path of its own for each",
            )
    return found


def hash_of(jobs: list[Job]) -> str:
    """The same for two batches that ask for the same jobs."""
    return hashlib.sha256(json.dumps([dump_job(job) for job in jobs], sort_keys=True).encode()).hexdigest()


def laid_over(part: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The base with what the part says instead or besides, objects within it alike.

    >>> laid_over({"target": {"path": "/b"}}, {"target": {"format": "dcp", "path": "/a"}, "priority": 1})
    {'target': {'format': 'dcp', 'path': '/b'}, 'priority': 1}
    """
    found = dict(base)
    for name, value in part.items():
        before = found.get(name)
        found[name] = laid_over(value, before) if isinstance(value, dict) and isinstance(before, dict) else value
    return found


def _pair(source: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    return {name: side for name, side in (("source", source), ("target", target)) if side}


def _job(data: dict[str, Any], number: int) -> Job:
    source, target = data.get("source"), data.get("target")
    if isinstance(target, dict) and isinstance(target.get("path"), str):
        path = target["path"].replace("{number}", str(number))
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            path = path.replace("{source}", os.path.basename(os.path.normpath(source["path"])))
        data = {**data, "target": {**target, "path": path}}
    try:
        return parse_job(data)
    except JobError as error:
        raise JobError(f"job {number} of the batch: {error.message}", facts=error.facts, do=error.do, details=error.details) from None


def _fault(item: Any) -> str:
    field = ".".join(map(str, item["loc"])) or "batch"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in {"missing", "extra_forbidden"}:
        return f"{field}: {'is required' if item['type'] == 'missing' else 'there is no such field'}"
    return f"{field}: {in_words(item) or f'{message[0].lower()}{message[1:]}'}"
