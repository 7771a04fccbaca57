"""A job from the command line: a file or stdin, changed by `--set key=value` and the short-cut flags; or flags alone.

The result is a plain dict. It is checked by `convsvc.spec` where it is used: by the service, or by the commands that run here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from convsvc.errors import JobError
from convsvc.job_text import parse_text
from convsvc.spec.formats import names_of

Function = TypeVar("Function", bound=Callable[..., Any])


class FormatName(click.ParamType[str]):
    """One of the formats that are read (`side` source) or written (target); they are looked for only once somebody names one."""

    name = "format"

    def __init__(self, side: str) -> None:
        self.side = side

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[" + "|".join(names_of(self.side)) + "]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return click.Choice(names_of(self.side)).convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in names_of(self.side) if name.startswith(incomplete)]


def job_options(function: Function) -> Function:
    """The argument JOB and the flags with which no file is needed; `job_from` makes the job of them."""
    for decorate in reversed(
        (
            click.argument("job_file", metavar="[JOB.json|-]", required=False),
            click.option("--source", metavar="PATH", help="The checkpoint to read."),
            click.option("--source-format", type=FormatName("source"), help="What it is (convert and plan: detected if left out)."),
            click.option("--target", metavar="PATH", help="The directory to write."),
            click.option("--target-format", type=FormatName("target"), help="What it shall be."),
            click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any field, e.g. target.tensor_parallel_size=2."),
        )
    ):
        function = decorate(function)
    return function


def job_from(
    *,
    job_file: str | None,
    source: str | None,
    source_format: str | None,
    target: str | None,
    target_format: str | None,
    sets: Iterable[str],
) -> dict[str, Any]:
    """The job that the options describe; flags win over the file. Paths on this command line are made absolute.

    Raises JobError if there is nothing to do, or the file is not an object.
    """
    job = read_job(job_file) if job_file else {}
    places = {"source.path": source and os.path.abspath(source), "target.path": target and os.path.abspath(target)}
    for key, value in {**places, "source.format": source_format, "target.format": target_format}.items():
        if value:
            put(job, key, value)
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise JobError(f"--set {item}: not KEY=VALUE", do="write for example --set target.tensor_parallel_size=2")
        put(job, key, value_of(text))
    if not job:
        raise JobError("there is no job", do="name a JSON or YAML file, - for stdin, or give --source, --target and their formats")
    return job


def read_job(name: str) -> dict[str, Any]:
    """The object in a JSON or YAML file, or on stdin if `name` is "-". Raises JobError."""
    text = sys.stdin.read() if name == "-" else _text_of(name)
    job = parse_text(text, f"{name}: the job")
    if not isinstance(job, dict):
        raise JobError(f"{name}: a job is an object with source and target, not {type(job).__name__}")
    return job


def put(job: dict[str, Any], key: str, value: Any) -> None:
    """Set the field that a dotted key names.

    >>> job = {}
    >>> put(job, "target.tensor_parallel_size", 2); job
    {'target': {'tensor_parallel_size': 2}}
    """
    *parents, last = key.split(".")
    for parent in parents:
        child = job.setdefault(parent, {})
        if not isinstance(child, dict):
            raise JobError(f"--set {key}: {parent} is not an object but {child!r}")
        job = child
    job[last] = value


def value_of(text: str) -> Any:
    """The JSON value that `text` is, or `text` itself.

    >>> value_of("2"), value_of("[0, 7]"), value_of("dualpipev")
    (2, [0, 7], 'dualpipev')
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text_of(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise JobError(f"{name}: {reason}", do="name a JSON or YAML file, or - for stdin") from None
