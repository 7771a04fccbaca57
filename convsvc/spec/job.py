"""The job: what a user asks for, as JSON or YAML; the same for the service, the CLI and Python.

Names are those of the tools users come from. Unknown fields are errors; every error says which field, what was given, what
is allowed. Nothing here looks at a disk or knows a model.
"""

from __future__ import annotations

import json
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from convsvc.errors import JobError
from convsvc.job_text import parse_text
from convsvc.spec.faults import in_words
from convsvc.spec.fields import JobReference, LabelName, LabelValue, Strict, Text
from convsvc.spec.formats import sides
from convsvc.spec.options import Options
from convsvc.spec.places import Detected, SourceSpec, TargetSpec

# Grows with every field or value that a version before does not know: an executor takes only jobs that it can read.
SPEC_VERSION = 11
_SHOWN_FAULTS = 50
DETECTED = "detected"

if TYPE_CHECKING:
    from convsvc.spec.places import SourceSpec as Source
    from convsvc.spec.places import TargetSpec as Target
else:
    Source = Annotated[reduce(or_, [*sides("SOURCE").values(), Detected]), Field(discriminator="format")]
    Target = Annotated[reduce(or_, [*sides("TARGET").values(), Detected]), Field(discriminator="format")]


Mode = Literal["convert", "verify", "compare"]


class Webhook(Strict):
    """Told once the job has ended: POST with the job's JSON, signed, sent again until it is taken."""

    url: str = Field(min_length=1, max_length=2000, pattern=r"^https?://[^\x00\s]+$", description="A host that the service allows.")


class Job(Strict):
    """A conversion from `source` to `target`, or a look at what one has left there: see `mode`.

    >>> job = parse_job({"source": {"format": "huggingface", "path": "/in"},
    ...                  "target": {"format": "mindspeed-llm", "path": "/out", "tensor_parallel_size": 2}})
    >>> job.target.tensor_parallel_size
    2
    """

    mode: Mode = Field(
        "convert",
        description="verify: whether the target is, whole, what the job writes. compare: whether source and target are the same model; "
        "both are read, and only their paths are said. Neither writes anything.",
    )
    name: Text | None = Field(None, max_length=200)
    model_type: Text | None = Field(None, max_length=200, description="The model family; detected where it is not given.")
    source: Source
    target: Target
    options: Options = Options()
    priority: int = Field(0, ge=-100, le=100, description="In the service's queue: higher ones first, among one tenant's jobs.")
    webhook: Webhook | None = Field(None, description="Called by the service when the job has ended.")
    after: Annotated[list[JobReference], Field(min_length=1, max_length=32)] | None = Field(
        None, description="Ids of the tenant's jobs that must have succeeded before this one begins; it fails if one of them does not."
    )
    labels: dict[LabelName, LabelValue] | None = Field(
        None, max_length=32, description='Whatever jobs shall be found by, e.g. {"model": "qwen3", "run": "7"}.'
    )

    @field_validator("model_type")
    @classmethod
    def _known_characters(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("must not be empty; leave it out to have it detected")
        return value

    @model_validator(mode="before")
    @classmethod
    def _compared_sides(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("mode") != "compare":
            return data
        sides = {side: data[side] for side in ("source", "target") if isinstance(data.get(side), dict)}
        return data | {side: {"format": DETECTED} | said for side, said in sides.items()}

    @model_validator(mode="after")
    def _two_places(self) -> Job:
        detected = [side for side in ("source", "target") if getattr(self, side).format == DETECTED]
        if self.mode == "compare":
            if len(detected) < 2:
                raise ValueError("mode compare finds out what lies at source.path and target.path: leave their formats out")
            if self.options != Options():
                raise ValueError("mode compare has no options")
            return self
        if detected:
            raise ValueError(f"{detected[0]}.format: detected is for mode compare")
        if self.source.path.rstrip("/") == self.target.path.rstrip("/"):
            raise ValueError(f"source.path and target.path are the same: {self.source.path}")
        return self


def parse_job(data: Any) -> Job:
    """The job that `data` (a dict, or JSON or YAML text) describes.

    Raises JobError with one fact for each wrong field.
    """
    if isinstance(data, Job):
        return data
    if isinstance(data, str | bytes):
        data = parse_text(data)
    if not isinstance(data, dict):
        raise JobError(f"a job is an object with source and target, not {type(data).__name__}")
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        count = error.error_count()
        faults = [_fault(item) for item in error.errors(include_url=False)[:_SHOWN_FAULTS]]
        more = [f"and {count - _SHOWN_FAULTS} more"] if count > _SHOWN_FAULTS else []
        raise JobError(
            f"the job has {count} wrong field{'s' if count > 1 else ''}",
            facts=[fault["text"] for fault in faults] + more,
            details={"fields": faults},
        ) from None


def parse_source(data: dict[str, Any]) -> SourceSpec:
    """What is said of a source, less what is None and what its format has no field for. Raises JobError, a fact for each wrong field."""
    kind = sides("SOURCE")[data["format"]]
    known = {name: value for name, value in data.items() if value is not None and name in kind.model_fields}
    try:
        source: SourceSpec = kind.model_validate(known)
    except ValidationError as error:
        faults = [_fault({**item, "loc": ("source", data["format"], *item["loc"])}) for item in error.errors(include_url=False)]
        raise JobError(f"the source has {len(faults)} wrong field(s)", facts=[fault["text"] for fault in faults]) from None
    return source


def parse_target(data: dict[str, Any]) -> TargetSpec:
    """The target of a job that was parsed before."""
    target: TargetSpec = sides("TARGET")[data["format"]].model_validate(data)
    return target


def job_schema() -> dict[str, Any]:
    """The JSON Schema of a job."""
    return Job.model_json_schema()


def dump_job(job: Job) -> dict[str, Any]:
    """The job as JSON, without what was not set."""
    dumped = job.model_dump(mode="json", exclude_none=True)
    if job.mode == "convert":  # as a job has always been: digests and fingerprints of it stay
        del dumped["mode"]
    if job.options.state == "weights":
        del dumped["options"]["state"]
    return dumped


def _fault(item: Any) -> dict[str, Any]:
    # The tag of a union is part of pydantic's location ("source", "huggingface", "path"); users wrote source.path.
    where = [str(part) for part in item["loc"]]
    if len(where) > 1 and where[0] in ("source", "target"):
        where = [where[0], *where[2:]]
    field = ".".join(part for part in where if part != "[key]") or "job"
    given = item.get("input")
    shown = json.dumps(given, default=str, skipkeys=True)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("union_tag_not_found", "union_tag_invalid"):
        known = ", ".join(sides(where[0].upper()))
        said = given.get("format") if isinstance(given, dict) else None
        what = "is required" if said is None else f"there is no format {json.dumps(said, default=str)}"
        field, text = f"{field}.format", f"{field}.format: {what}: one of {known}"
    elif item["type"] == "extra_forbidden":
        text = f"{field}: there is no such field (given {shown})"
    elif item["type"] == "missing":
        text = f"{field}: is required"
    elif item["type"] == "string_pattern_mismatch" and "labels" in where:
        text = f"{field}: use letters, digits and . _ / - within a label's name or value (given {shown})"
    else:
        text = f"{field}: {in_words(item) or f'{message[0].lower()}{message[1:]}'} (given {shown})"
    return {"field": field, "given": given if isinstance(given, str | int | float | bool | None) else shown, "text": text}
