"""Training runs that are watched: the commands `watch-dir` and `watches`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.human import between
from convsvc.cli.job_file import job_from, job_options, put
from convsvc.cli.options import Service, json_option, print_fields, print_json, print_table, service_options
from convsvc.cli.terminal import say

if TYPE_CHECKING:
    from convsvc.service.watch_views import IterationView, WatchView


@click.command(
    epilog="Example: convsvc watch-dir /runs/qwen3 --every 1000 --keep 3 --source-format mindspeed-llm "
    "--target '/shared/hf/{iteration}' --target-format huggingface"
)
@click.argument("directory")
@job_options
@click.option("--every", type=click.IntRange(1), help="Only iterations that this divides.")
@click.option("--iteration", "iterations", type=click.IntRange(0), multiple=True, help="Only this one; may be repeated.")
@click.option("--since", type=click.IntRange(0), help="None before this one.")
@click.option("--rest-s", type=click.FloatRange(0), help="How long nothing in an iteration may have changed (60).")
@click.option("--oldest-first", is_flag=True, help="Where several are whole; the newest comes first without it.")
@click.option("--keep", type=click.IntRange(1), help="How many targets are kept, of the newest; older ones are removed.")
@click.option("--name", help="To know it by.")
@click.option("--webhook", metavar="URL", help="Called when a job has ended. Wins over the job's own.")
@service_options
@json_option
def watch_dir(
    directory: str,
    service: Service,
    as_json: bool,
    every: int | None,
    iterations: tuple[int, ...],
    since: int | None,
    rest_s: float | None,
    oldest_first: bool,
    keep: int | None,
    name: str | None,
    webhook: str | None,
    **job: Any,
) -> None:
    """Convert the iterations of a training run as they appear, each one once, and print the watch's id.

    DIRECTORY is where training saves: iter_0000100, checkpoint-500, ... The job is a JSON or YAML file, - for stdin, or made of the flags,
    without a source path; its target path has {iteration} in it, or {iteration:07d} for zeros before. An iteration is converted once
    training says that it is whole, nothing in it has changed for a while, and it can be read. Paths are those of the service's machines.
    """
    wanted = job_from(**job)
    if webhook is not None:
        put(wanted, "webhook.url", webhook)
    stated = {"name": name, "every": every, "iterations": list(iterations) or None, "since": since, "rest_s": rest_s, "keep": keep}
    watch = {"directory": os.path.abspath(directory), "job": wanted, **{key: value for key, value in stated.items() if value is not None}}
    if oldest_first:
        watch["order"] = "oldest"
    from convsvc.cli.connection import connect

    with connect(service) as client:
        view = client.create_watch(watch)
    if as_json:
        print_json(view)
    else:
        say(view.id)


@click.command(epilog="Example: convsvc watches 01jd2k --json")
@click.argument("watch_id", required=False)
@click.option("--remove", is_flag=True, help="Watch no longer. Its jobs and what they made stay.")
@service_options
@json_option
def watches(watch_id: str | None, remove: bool, service: Service, as_json: bool) -> None:
    """List the watches; with an id show one, with the iterations that were seen and their jobs."""
    if remove and watch_id is None:
        raise click.UsageError("--remove needs the watch's id")
    from convsvc.cli.connection import connect

    with connect(service) as client:
        if watch_id is None:
            _list(client.watches(), as_json)
        elif remove:
            view = client.remove_watch(watch_id)
            print_json(view) if as_json else say(f"removed {view.id}: {view.directory} is watched no longer")
        else:
            _show(client.watch(watch_id), client.iterations(watch_id), as_json)


def _list(found: list[WatchView], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = [(one.id, one.name or "-", _looked(one), _counted(one.iterations), _counted(one.jobs), one.directory) for one in found]
    print_table(("ID", "NAME", "LOOKED AT", "ITERATIONS", "JOBS", "DIRECTORY"), rows)
    for one in found:
        if one.error:
            say(f"{one.id}: {one.error.get('message')}", err=True)


def _show(one: WatchView, seen: list[IterationView], as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        print_json({**asdict(one), "seen": [asdict(iteration) for iteration in seen]})
        return
    error = (one.error or {}).get("message")
    print_fields({"id": one.id, "name": one.name, "directory": one.directory, "looked at": _looked(one), "error": error})
    print_table(("ITERATION", "STATE", "JOB", "JOB STATE", "TARGET"), [_row(iteration) for iteration in seen])
    for iteration in seen:
        why = iteration.kept_for or (iteration.error or {}).get("message")
        if why:
            say(f"{iteration.iteration}: {why}")


def _row(one: IterationView) -> tuple[object, ...]:
    target = f"{one.target} (removed)" if one.removed_at else one.target or "-"
    return one.iteration, one.state, one.job or "-", one.job_state or "-", target


def _looked(one: WatchView) -> str:
    return f"{between(one.looked_at)} ago" if one.looked_at else "never"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "-"
