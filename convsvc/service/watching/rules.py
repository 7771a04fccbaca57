"""What a watch is told: which directory, which iterations, when one counts as whole, and the job that each one becomes. Pure."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from convsvc.errors import JobError
from convsvc.job_text import parse_text
from convsvc.spec import Job, parse_job
from convsvc.spec.faults import in_words
from convsvc.spec.fields import Path, Strict, Text

MOST_ITERATION = 10**12 - 1  # what a directory's name says
# {iteration}, or {iteration:07d} for seven digits with zeros before.
PLACE = re.compile(r"\{iteration(?::0?([1-9][0-9]?)d?)?\}")
Number = Annotated[int, Field(ge=0, le=MOST_ITERATION)]


class WatchSpec(Strict):
    """A watch as it is asked for. `job` is a job without source.path, in whose target.path `{iteration}` stands for the number."""

    name: Text | None = Field(None, max_length=200)
    directory: Path = Field(description="Where a training run saves its iterations: iter_0000100, checkpoint-500, ...")
    job: dict[str, Any] = Field(
        description="A job's template: source.path is left out, target.path has {iteration} in it (or {iteration:07d}, with zeros before); "
        "so may its name. Without options.on_exists it is reuse."
    )
    every: Annotated[int, Field(ge=1, le=MOST_ITERATION)] | None = Field(None, description="Only iterations that this divides.")
    iterations: Annotated[list[Number], Field(min_length=1, max_length=10_000)] | None = Field(None, description="Only these.")
    since: Number = Field(0, description="None before this one.")
    rest_s: float = Field(
        60, ge=0, le=86_400, description="For how long nothing in an iteration's directory may have changed before it is converted."
    )
    order: Literal["newest", "oldest"] = Field("newest", description="Which one is converted first where several are whole.")
    keep: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="How many targets are kept, of the newest iterations; an older one's is removed once as many newer ones are converted, "
        "if it holds nothing but what its job wrote. Iterations too old to be kept are not converted.",
    )

    @model_validator(mode="after")
    def _one_choice(self) -> WatchSpec:
        if self.every is not None and self.iterations is not None:
            raise ValueError("every and iterations exclude one another: state one of them")
        return self

    def wants(self, iteration: int) -> bool:
        """Whether the iteration is one of those that are converted."""
        if iteration < self.since:
            return False
        if self.iterations is not None:
            return iteration in self.iterations
        return iteration % (self.every or 1) == 0


def parse_watch(data: Any) -> WatchSpec:
    """The watch that `data` (a dict, or JSON or YAML text) describes, its job tried with a number. Raises JobError."""
    if isinstance(data, str | bytes):
        data = parse_text(data)
    if not isinstance(data, dict):
        raise JobError(f"a watch is an object with directory and job, not {type(data).__name__}")
    try:
        spec = WatchSpec.model_validate(data)
    except ValidationError as error:
        faults = [_fault(dict(item)) for item in error.errors(include_url=False)[:50]]
        raise JobError(
            f"the watch has {len(faults)} wrong field{'s' if len(faults) > 1 else ''}",
            facts=[fault["text"] for fault in faults],
            details={"fields": faults},
        ) from None
    _check_template(spec)
    return spec


def dump_watch(spec: WatchSpec) -> dict[str, Any]:
    """The watch as JSON, without what was not set."""
    return spec.model_dump(mode="json", exclude_none=True)


def hash_of(spec: WatchSpec) -> str:
    """The same for two requests that ask for the same watch."""
    return hashlib.sha256(json.dumps(dump_watch(spec), sort_keys=True).encode()).hexdigest()


def job_for(spec: WatchSpec, iteration: int, says: Mapping[str, str], watch_id: str) -> Job:
    """The job that an iteration becomes; `says` are the fields of its source that mean the iteration. Raises JobError."""
    job: dict[str, Any] = json.loads(json.dumps(spec.job))
    stated = sorted((set(says) - {"path"}) & set(job["source"]))
    if stated:
        raise JobError(f"job.source.{stated[0]} is the watch's to set", do="leave it out: it is another one for each iteration")
    job["source"] = {**job["source"], **says}
    job["target"]["path"] = fill_in(job["target"]["path"], iteration)
    if isinstance(job.get("name"), str):
        job["name"] = fill_in(job["name"], iteration)
    job["options"] = {"on_exists": "reuse", **(job.get("options") or {})}
    job["labels"] = {"watch": watch_id, "iteration": str(iteration), **(job.get("labels") or {})}
    return parse_job(job)


def fill_in(text: str, iteration: int) -> str:
    """The text with the iteration's number in it.

    >>> fill_in("/out/iter_{iteration:07d}/{iteration}", 100)
    '/out/iter_0000100/100'
    """
    return PLACE.sub(lambda found: str(iteration).zfill(int(found[1] or 0)), text)


def _check_template(spec: WatchSpec) -> None:
    source, target = (spec.job.get(side) for side in ("source", "target"))
    if not isinstance(source, dict) or not isinstance(target, dict):
        raise JobError("job: a job's template is an object with source and target")
    if source.get("path", spec.directory) != spec.directory:
        raise JobError("job.source.path is the watch's to set", do="leave it out: each iteration of the directory becomes a source")
    path = target.get("path")
    if not isinstance(path, str) or not PLACE.search(path):
        raise JobError(
            f"job.target.path has no {{iteration}} in it: {path!r}",
            do="write for example /shared/out/{iteration}, so that no two are alike",
        )
    if spec.job.get("mode", "convert") != "convert":
        raise JobError("job.mode: a watch converts", do="leave mode out")
    labels = spec.job.get("labels")
    if isinstance(labels, dict) and len(labels) > 30:
        raise JobError("job.labels: at most 30 in a watch, which adds two of its own")
    job = job_for(spec, spec.since, {"path": spec.directory}, "0" * 26)
    if os.path.dirname(os.path.normpath(job.target.path)) == os.path.normpath(spec.directory):
        raise JobError(
            f"job.target.path lies in the directory that is watched: {path}",
            do="choose another directory: what is made there would be looked at as an iteration",
        )


def _fault(item: dict[str, Any]) -> dict[str, Any]:
    field = ".".join(map(str, item["loc"])) or "watch"
    shown = json.dumps(item.get("input"), default=str)[:80]
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in {"missing", "extra_forbidden"}:
        return {"field": field, "text": f"{field}: {'is required' if item['type'] == 'missing' else 'there is no such field'}"}
    return {"field": field, "text": f"{field}: {in_words(item) or f'{message[0].lower()}{message[1:]}'} (given {shown})"}
