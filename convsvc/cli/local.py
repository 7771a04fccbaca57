"""The commands that run on this machine, without a server: `convert` and `plan`; `verify` is in a file of its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from convsvc.cli.html import html_option, write_page
from convsvc.cli.job_file import job_from, job_options
from convsvc.cli.options import Service, json_option, memory_option, print_fields, print_json, service_options
from convsvc.cli.terminal import say
from convsvc.errors import JobError, error_from_dict
from convsvc.units import in_bytes


@click.command(epilog="Example: convsvc convert job.json --engine process --workers 4")
@job_options
@click.option("--engine", type=click.Choice(["inline", "process", "ray"]), default="process", show_default=True, help="Where tasks run.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Tasks at once (default: what the engine finds).")
@click.option("--ray-address", metavar="HOST:PORT", help="A running Ray cluster, with --engine ray.")
@memory_option
@json_option
def convert(engine: str, workers: int | None, ray_address: str | None, memory_limit_bytes: int | None, as_json: bool, **job: Any) -> None:
    """Run a job here and wait until the target is in place. A source whose format nobody states is what lies there."""
    wanted = _detected(job_from(**job))
    from convsvc.cli.progress import ShownRun, make_display
    from convsvc.conversion import convert as run_job

    display, well = make_display(), False
    try:
        shown = ShownRun(display)
        where: dict[str, Any] = {"engine": engine, "workers": workers, "ray_address": ray_address, "memory_limit_bytes": memory_limit_bytes}
        result = run_job(wanted, listener=shown, **where)
        well = True
    finally:
        display.close(well=well)
    for note in result.notes:
        say(str(note), err=True)
    if as_json:
        print_json(result.as_dict())
    elif result.already_done:
        say(f"already done: {result.target} is what this job writes")
    else:
        say(f"converted to {result.target}: {in_bytes(result.bytes_written)} written in {result.seconds:.1f} s")


@click.command(epilog="Example: convsvc plan job.json")
@job_options
@click.option("--on-service", is_flag=True, help="Let the service plan: paths are its machines', the memory limit is its own.")
@click.option(
    "--tensors",
    metavar="[PATTERN]",
    is_flag=False,
    flag_value="*",
    help="Say instead which tensor goes where: all, or those whose name on either side fits, e.g. --tensors '*q_proj*'.",
)
@html_option
@memory_option
@service_options
@json_option
def plan(
    on_service: bool,
    tensors: str | None,
    html: str | None,
    memory_limit_bytes: int | None,
    service: Service,
    as_json: bool,
    **job: Any,
) -> None:
    """Say what a job would do: proof that source and target match, files, tasks, bytes, memory. Reads headers, writes nothing.

    A service also says what would make the job fail as things are (exit code 4): the target exists, is busy, cannot be written, has no
    room.
    """
    wanted = job_from(**job) if on_service else _detected(job_from(**job))
    if html is not None:
        if on_service or as_json or tensors is not None:
            raise click.UsageError("--html draws a plan that is made here; leave out --on-service, --json and --tensors")
        _draw(wanted, html)
        return
    if tensors is not None:
        if on_service:
            raise click.UsageError("--tensors tells of a plan that is made here; leave out --on-service")
        _print_moves(wanted, tensors, as_json)
        return
    summary = _planned_there(wanted, service) if on_service else _planned_here(wanted, memory_limit_bytes)
    problems = summary.pop("problems", []) if not as_json else summary.get("problems", [])
    if as_json:
        print_json(summary)
    else:
        print_fields(summary)
    errors = [error_from_dict(problem) for problem in problems]
    if errors:
        for error in errors[1:]:
            say(f"{error}", err=True)
        raise errors[0]


def _detected(wanted: dict[str, Any]) -> dict[str, Any]:
    """The job with its source's format, which is told where nobody stated it."""
    if "format" in (wanted.get("source") or {}):  # nothing is looked for then, and nothing imported
        return wanted
    from convsvc.plan.inspect import with_format

    wanted, notes = with_format(wanted)
    for note in notes:
        say(str(note), err=True)
    return wanted


def _print_moves(wanted: dict[str, Any], pattern: str, as_json: bool) -> None:
    from convsvc.plan.describe import describe_moves
    from convsvc.plan.planner import make_plan
    from convsvc.spec import parse_job

    moves = describe_moves(make_plan(parse_job(wanted)), pattern)
    if as_json:
        print_json([move.as_dict() for move in moves])
        return
    texts = list(map(str, moves))
    for text in texts:
        say(text)
    if not texts:
        raise JobError(f"no tensor is called {pattern} on either side", do="use * for any part of a name, e.g. --tensors '*q_proj*'")


def _draw(wanted: dict[str, Any], html: str) -> None:
    from convsvc.pictures.of_plan import picture_of_plan
    from convsvc.plan.planner import make_plan
    from convsvc.spec import parse_job

    write_page(html, picture_of_plan(make_plan(parse_job(wanted))))


def _planned_there(wanted: dict[str, Any], service: Service) -> dict[str, Any]:
    from convsvc.cli.connection import connect

    with connect(service) as client:
        return asdict(client.plan(wanted))


def _planned_here(wanted: dict[str, Any], memory_limit_bytes: int | None) -> dict[str, Any]:
    from convsvc.execute.forecast import check_memory, forecast
    from convsvc.plan.planner import make_plan
    from convsvc.spec import parse_job

    made = make_plan(parse_job(wanted))
    check_memory(made, memory_limit_bytes)
    return made.summary() | {"needs": forecast(made).as_dict()}
