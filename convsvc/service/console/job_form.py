"""The form of a new job: its fields are those of the formats' own classes; what has no field of its own is said as JSON. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from convsvc.errors import JobError
from convsvc.job_text import parse_text
from convsvc.spec.formats import sides
from convsvc.spec.options import Options

Kind = Literal["number", "flag", "choice", "text"]
# A kind of field by the type in the JSON Schema.
KINDS: dict[str, Kind] = {"integer": "number", "boolean": "flag", "string": "text"}
AT_ROOT = {"name": "text", "model_type": "text", "priority": "number"}
OPTIONS = ("dtype", "verify", "on_exists", "on_loss")
_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of one side: `name` as it stands in a job (target.tensor_parallel_size), what is said of it, what it may be."""

    name: str
    kind: Kind
    about: str = ""
    choices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.name.partition(".")[2]

    @property
    def id(self) -> str:
        return self.name.replace(".", "-")


@cache
def fields_of(side: str, name: str) -> tuple[Field, ...]:
    """What a form can ask of a source or target of that format: numbers first, then the rest; none for a format that there is not."""
    known = sides(side.upper()).get(name)
    if known is None:
        return ()
    found = _fields(side, known.model_json_schema())
    return tuple(sorted(found, key=lambda field: field.kind != "number"))


@cache
def option_fields() -> tuple[Field, ...]:
    """The options that a form asks for; the others are said as JSON."""
    found = {field.label: field for field in _fields("options", Options.model_json_schema())}
    return tuple(found[name] for name in OPTIONS)


def _fields(prefix: str, schema: dict[str, Any]) -> list[Field]:
    found = [_field(f"{prefix}.{name}", about) for name, about in schema["properties"].items() if name not in {"format", "path"}]
    return [field for field in found if field is not None]


def _field(name: str, about: dict[str, Any]) -> Field | None:
    for shape in (about, *about.get("anyOf", ())):
        words = str(about.get("description") or "")
        if "enum" in shape:
            return Field(name, "choice", words, tuple(str(item) for item in shape["enum"]))
        if shape.get("type") in KINDS:
            return Field(name, KINDS[shape["type"]], words)
    return None


def job_said(form: Mapping[str, list[str]]) -> dict[str, Any]:
    """The job that a form describes, unchecked: its fields over what stands in `more`. Raises JobError if that is no object of JSON."""
    job = _more(form.get("more", [""])[-1])
    kinds = kinds_of(form)
    for name, kind in kinds.items():
        text = form.get(name, [""])[-1].strip()
        if text:
            _put(job, name, _value(kind, text))
    return job


def kinds_of(form: Mapping[str, list[str]]) -> dict[str, str]:
    """The fields that a form with these formats has, and what each is."""
    found: dict[str, str] = dict(AT_ROOT)
    for side in ("source", "target"):
        found |= {f"{side}.path": "text", f"{side}.format": "text"}
        found |= {field.name: field.kind for field in fields_of(side, form.get(f"{side}.format", [""])[-1])}
    return found | {field.name: field.kind for field in option_fields()}


def form_of(spec: dict[str, Any]) -> dict[str, list[str]]:
    """The form that says the same job; a webhook's address is shown to nobody, so that it is not in it.

    >>> form = form_of({"target": {"format": "mindspeed-llm", "path": "/out", "tensor_parallel_size": 2, "num_layer_list": [1]}})
    >>> form["target.tensor_parallel_size"], form["more"]
    (['2'], ['{"target": {"num_layer_list": [1]}}'])
    """
    left: dict[str, Any] = json.loads(json.dumps({name: value for name, value in spec.items() if name not in {"webhook", "labels"}}))
    left |= {"labels": spec["labels"]} if spec.get("labels") else {}
    form = {f"{side}.format": [str((spec.get(side) or {}).get("format", ""))] for side in ("source", "target")}
    for name in kinds_of(form):
        value = _take(left, name)
        if value is not None:
            form[name] = [json.dumps(value) if isinstance(value, bool) else str(value)]
    rest = {name: value for name, value in left.items() if value not in ({}, None)}
    return form | ({"more": [json.dumps(rest, ensure_ascii=False)]} if rest else {})


def _more(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    found = parse_text(text)
    if not isinstance(found, dict):
        raise JobError("what stands under further fields is no object", do='write it as in a job: {"options": {"max_shard_size": "5GB"}}')
    return found


def _value(kind: str, text: str) -> Any:
    # What is no number stays a text: the job's own check says what it must be.
    if kind == "number" and _NUMBER.fullmatch(text):
        return int(text)
    return text == "true" if kind == "flag" and text in {"true", "false"} else text


def _put(job: dict[str, Any], name: str, value: Any) -> None:
    side, dot, field = name.partition(".")
    if not dot:
        job[side] = value
        return
    within = job.setdefault(side, {})
    if not isinstance(within, dict):
        raise JobError(f"{side} is no object among the further fields")
    within[field] = value


def _take(job: dict[str, Any], name: str) -> Any:
    side, dot, field = name.partition(".")
    if not dot:
        return job.pop(side, None)
    within = job.get(side)
    return within.pop(field, None) if isinstance(within, dict) else None
