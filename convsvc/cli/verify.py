"""`verify`: a job's target against what the job writes, or two checkpoints against each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.job_file import job_from, job_options
from convsvc.cli.options import Service, json_option, print_json, service_options
from convsvc.cli.terminal import say
from convsvc.errors import JobError, SourceError, VerifyError
from convsvc.units import counted, in_bytes

if TYPE_CHECKING:
    from convsvc.engine.listener import Listener

SHOWN = 20


@click.command(epilog="Example: convsvc verify /shared/hf/Qwen3-8B /shared/mcore/Qwen3-8B")
@job_options
@click.argument("other", metavar="[OTHER]", required=False)
@click.option("--model-type", metavar="NAME", help="Two checkpoints: the model family of both (default: detected).")
@click.option("--iteration", metavar="N", help="Two checkpoints: the iteration of rank files (default: the tracker's).")
@click.option("--modules", multiple=True, type=click.Choice(["text_decoder"]), help="Two checkpoints: what of models of several modules.")
@click.option("--on-service", is_flag=True, help="Let the service read, as a job of its own: paths are its machines'.")
@service_options
@json_option
def verify(
    as_json: bool,
    other: str | None,
    model_type: str | None,
    iteration: str | None,
    modules: tuple[str, ...],
    on_service: bool,
    service: Service,
    **job: Any,
) -> None:
    """Whether a job's target is, whole, what the job writes; or whether two checkpoints are the same model. Writes nothing.

    With a job, every byte of the target is read: each element in each place is compared with what is computed again from the source, and
    headers, checksums and side files with what would be written. With two directories, in any formats and cut in any way, every tensor is
    compared by its values. The exit code is 0 if nothing differs, 6 if something does.

    With --on-service an executor of the service reads, and the answer is the same. Ctrl-C leaves the job: `convsvc watch` comes back to it.
    """
    first, there = job["job_file"], service if on_service else None
    if other is None and not (first and os.path.isdir(first)):
        if model_type or iteration or modules:
            raise JobError(
                "--model-type, --iteration and --modules are for two checkpoints", do="name the second one, or state them in the job"
            )
        _verify_job(job_from(**job), there, as_json)
        return
    if other is None:
        raise JobError(f"{first} is a directory: with what is it compared?", do="name a job, or a second checkpoint")
    if any(value for name, value in job.items() if name != "job_file"):
        raise JobError("two checkpoints are compared without a job", do="leave its options out")
    stated = {"model_type": model_type, "iteration": iteration, "modules": list(dict.fromkeys(modules)) or None}
    _compare(os.path.abspath(first), os.path.abspath(other), stated, there, as_json)


def _verify_job(wanted: dict[str, Any], service: Service | None, as_json: bool) -> None:
    result = _verified_there(wanted, service) if service else _verified_here(wanted)
    if as_json:
        print_json(result)
    else:
        say(f"{result['target']} holds what {wanted['source']['path']} holds, {in_bytes(result['bytes_read'])} compared")


def _verified_here(wanted: dict[str, Any]) -> dict[str, Any]:
    from convsvc.conversion import verify as verify_job

    with _shown() as listener:
        return verify_job(wanted, listener=listener)


def _verified_there(wanted: dict[str, Any], service: Service) -> dict[str, Any]:
    return _answer_of({**wanted, "mode": "verify"}, service)


def _compare(first: str, other: str, stated: dict[str, Any], service: Service | None, as_json: bool) -> None:
    result = _compared_there(first, other, stated, service) if service else _compared_here(first, other, stated)
    if as_json:
        print_json(result)
    else:
        for line in _lines(result):
            say(line)
    if not result["same"]:
        raise click.exceptions.Exit(VerifyError.exit_code)


def _compared_here(first: str, other: str, stated: dict[str, Any]) -> dict[str, Any]:
    from convsvc.comparison import compare

    for path in (first, other):
        if not os.path.isdir(path):
            raise SourceError(f"{path} is not a directory", do="name two directories with checkpoints")
    with _shown() as listener:
        return compare(first, other, **stated, listener=listener)


def _compared_there(first: str, other: str, stated: dict[str, Any], service: Service) -> dict[str, Any]:
    said = {name: stated[name] for name in ("iteration", "modules") if stated[name]}
    model_type = stated["model_type"]
    job: dict[str, Any] = {"mode": "compare", "source": {"path": first, **said}, "target": {"path": other, **said}}
    try:
        return _answer_of(job | ({"model_type": model_type} if model_type else {}), service)
    except VerifyError as differs:
        if "comparison" not in differs.details:
            raise
        return dict(differs.details["comparison"])


def _answer_of(job: dict[str, Any], service: Service) -> dict[str, Any]:
    """What a job of the service answers once it has succeeded. Raises what it failed with."""
    from convsvc.cli.connection import connect
    from convsvc.cli.watch import follow_job

    with connect(service) as client:
        view = client.submit(job)
        say(f"job {view.id}", err=True)
        return follow_job(client, view.id).result or {}


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
    from convsvc.comparison import differences

    for side in ("a", "b"):
        about = result[side]
        cut = {name: size for name, size in about.get("parallel", {}).items() if size not in (None, [], False, 1)}
        shown = "".join(f", {name} {size}" for name, size in cut.items())
        yield f"{side}: {about['path']} ({about['format']}, {about['model_type']}, {counted(about['files'], 'file')}{shown})"
        yield from (f"   {note['kind']}: {note['text']}" for note in about["notes"])
    yield from differences(result, SHOWN)
    yield from (f"dtypes: {said} ({counted(count, 'tensor')}), compared by value" for said, count in result["dtypes"].items())
    yield from (f"configurations differ: {text}" for text in result["advice"])
    verdict = "the same model" if result["same"] else "not the same"
    yield f"{verdict}: {counted(result['compared'], 'tensor')} compared, {in_bytes(result['bytes_read'])} read"
