"""`verify`: a job's target against what the job writes, or two checkpoints against each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.job_file import job_from, job_options
from convsvc.cli.options import json_option, print_json
from convsvc.cli.terminal import say
from convsvc.errors import JobError, SourceError, VerifyError
from convsvc.units import in_bytes

if TYPE_CHECKING:
    from convsvc.engine.listener import Listener

SHOWN = 20


@click.command(epilog="Example: convsvc verify /shared/hf/Qwen3-8B /shared/mcore/Qwen3-8B")
@job_options
@click.argument("other", metavar="[OTHER]", required=False)
@click.option("--model-type", metavar="NAME", help="Two checkpoints: the model family of both (default: detected).")
@click.option("--iteration", metavar="N", help="Two checkpoints: the iteration of rank files (default: the tracker's).")
@json_option
def verify(as_json: bool, other: str | None, model_type: str | None, iteration: str | None, **job: Any) -> None:
    """Whether a job's target is, whole, what the job writes; or whether two checkpoints are the same model. Writes nothing.

    With a job, every byte of the target is read: each element in each place is compared with what is computed again from the source, and
    headers, checksums and side files with what would be written. With two directories, in any formats and cut in any way, every tensor is
    compared by its values. The exit code is 0 if nothing differs, 6 if something does.
    """
    first = job["job_file"]
    if other is None and not (first and os.path.isdir(first)):
        if model_type or iteration:
            raise JobError("--model-type and --iteration are for two checkpoints", do="name the second one, or state them in the job")
        _verify_job(job_from(**job), as_json)
        return
    if other is None:
        raise JobError(f"{first} is a directory: with what is it compared?", do="name a job, or a second checkpoint")
    if any(value for name, value in job.items() if name != "job_file"):
        raise JobError("two checkpoints are compared without a job", do="leave its options out")
    _compare(first, other, model_type, iteration, as_json)


def _verify_job(wanted: dict[str, Any], as_json: bool) -> None:
    from convsvc.conversion import verify as verify_job

    with _shown() as listener:
        result = verify_job(wanted, listener=listener)
    if as_json:
        print_json(result)
    else:
        say(f"{result['target']} holds what {wanted['source']['path']} holds, {in_bytes(result['bytes_read'])} compared")


def _compare(first: str, other: str, model_type: str | None, iteration: str | None, as_json: bool) -> None:
    from convsvc.comparison import compare

    for path in (first, other):
        if not os.path.isdir(path):
            raise SourceError(f"{path} is not a directory", do="name two directories with checkpoints")
    with _shown() as listener:
        paths = os.path.abspath(first), os.path.abspath(other)
        result = compare(*paths, model_type=model_type, iteration=iteration, listener=listener)
    if as_json:
        print_json(result)
    else:
        for line in _lines(result):
            say(line)
    if not result["same"]:
        raise click.exceptions.Exit(VerifyError.exit_code)


@contextmanager
def _shown() -> Iterator[Listener]:
    from convsvc.cli.progress import ShownRun, make_display

    display, well = make_display(), False
    try:
        yield ShownRun(display)
        well = True
    finally:
        display.close(well=well)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    for side in ("a", "b"):
        about = result[side]
        cut = {name: size for name, size in about.get("parallel", {}).items() if size not in (None, [], False, 1)}
        shown = "".join(f", {name} {size}" for name, size in cut.items())
        yield f"{side}: {about['path']} ({about['format']}, {about['model_type']}, {about['files']} files{shown})"
        yield from (f"   {note['kind']}: {note['text']}" for note in about["notes"])
    yield from _some("another model", result["other_model"])
    yield from _some("another shape", result["other_shape"])
    yield from _some("only in a", result["only_a"])
    yield from _some("only in b", result["only_b"])
    yield from _some("differs", [_difference(each) for each in result["different"]])
    yield from _some("copies differ", result["copies"])
    yield from (f"dtypes: {said} ({count} tensors), compared by value" for said, count in result["dtypes"].items())
    yield from (f"configurations differ: {text}" for text in result["advice"])
    verdict = "the same model" if result["same"] else "not the same"
    yield f"{verdict}: {result['compared']} tensors compared, {in_bytes(result['bytes_read'])} read"


def _some(what: str, items: list[str]) -> Iterator[str]:
    yield from (f"{what}: {item}" for item in items[:SHOWN])
    if len(items) > SHOWN:
        yield f"{what}: and {len(items) - SHOWN} more (--json lists all)"


def _difference(found: dict[str, Any]) -> str:
    apart = "by no finite number" if found["max_abs"] is None else f"at most {found['max_abs']:.6g} apart"
    first = f"first at {found['first']}: {found['values'][0]} and {found['values'][1]}"
    return f"{found['name']} in {found['elements']} of {found['of']} elements, {apart}, {first}"
