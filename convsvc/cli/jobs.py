"""The commands about jobs that the service has: `jobs`, `logs`, `wait`, `cancel`, `retry`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.completing import job_argument
from convsvc.cli.human import between, time_of
from convsvc.cli.options import Service, json_option, plain, print_json, print_table, service_options
from convsvc.cli.terminal import say
from convsvc.cli.watching import goes_on

if TYPE_CHECKING:
    from convsvc.client import Client
    from convsvc.service.views import JobView, LogLine

PAGE = 100
LONGEST = 24
STATES = ("queued", "blocked", "planning", "running", "sealing", "verifying", "canceling", "succeeded", "failed", "canceled")
LEVELS = ("debug", "info", "warning", "error", "critical")
SORTS: dict[str, Callable[[JobView], Any]] = {
    "duration": lambda job: -_seconds(job),
    "name": lambda job: (job.name or "", job.id),
    "priority": lambda job: (-job.priority, job.id),
    "progress": lambda job: -(job.progress.bytes_done + job.progress.bytes_running) / max(1, job.progress.bytes_total),
    "state": lambda job: (STATES.index(job.state), job.id),
    "submitted": lambda job: job.id,
    "target": lambda job: job.target,
}


def _seconds(job: JobView) -> float:
    """How long the run has lasted."""
    return ((job.ended_at or datetime.now(timezone.utc)) - job.started_at).total_seconds() if job.started_at else 0.0


def _time_option(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else time_of(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time; write 90m, 6h, 2d, or 2024-05-31T12:00") from None


@click.command(epilog="Example: convsvc jobs --state failed --since 2d --label model=qwen3 --sort duration")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--since", callback=_time_option, metavar="TIME", help="Submitted then or later: 90m, 6h, 2d, or 2024-05-31T12:00.")
@click.option("--until", callback=_time_option, metavar="TIME", help="Submitted before then.")
@click.option("--name", metavar="TEXT", help="With this in their name.")
@click.option("--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="With this label; several times for several.")
@click.option("--model-type", metavar="NAME", help="Of this model family.")
@click.option("--source", metavar="TEXT", help="With this in the source's path.")
@click.option("--target", metavar="TEXT", help="With this in the target's path.")
@click.option("--tenant", metavar="NAME", help="Only this tenant's; an administrator sees all tenants' otherwise.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="How many, newest first.")
@click.option("--sort", type=click.Choice(sorted(SORTS)), help="Sort those that are listed; without it the newest comes first.")
@click.option("--reverse", is_flag=True, help="In the other order.")
@click.option("--wide", is_flag=True, help="Names and model families whole.")
@service_options
@json_option
def jobs(sort: str | None, reverse: bool, wide: bool, limit: int, service: Service, as_json: bool, **wanted: Any) -> None:
    """List the service's jobs, newest first."""
    from convsvc.cli.connection import connect

    wanted["labels"] = {name: value if equals else None for name, equals, value in (item.partition("=") for item in wanted["labels"])}
    with connect(service) as client:
        found = _newest(client, wanted, limit)
    if sort:
        found.sort(key=SORTS[sort])
    if reverse:
        found.reverse()
    if as_json:
        print_json(found)
        return
    labels = any(job.labels for job in found)
    modes = any(job.mode != "convert" for job in found)
    more = (*(("MODE",) if modes else ()), *(("LABELS",) if labels else ()))
    head = ("ID", "STATE", "PROGRESS", "AGE", "DURATION", "TENANT", "MODEL", "NAME", *more, "TARGET")
    print_table(head, [_row(job, wide, modes, labels) for job in found])


@click.command(epilog="Example: convsvc logs 01jd2k4v --follow --tail 20")
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@click.option("--task", type=click.IntRange(0), metavar="NUMBER", help="Only what is about this task; `convsvc status` numbers them.")
@click.option("--level", type=click.Choice(LEVELS), help="Only this level and those above.")
@click.option("--tail", "-n", type=click.IntRange(1, 10_000), metavar="N", help="Only the last N lines.")
@service_options
@json_option
def logs(job_id: str, follow: bool, task: int | None, level: str | None, tail: int | None, service: Service, as_json: bool) -> None:
    """Print a job's log; with --json a line of JSON for each of its lines."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        job_id, seen = client.job(job_id).id, 0
        while lines := client.logs(job_id, after=seen, task=task, level=level, tail=tail):
            seen = lines[-1].seq
            for line in lines:
                _print_line(line, as_json)
            if tail:
                break
        if follow:
            with goes_on(job_id, "logs --follow"):
                for line in client.follow_logs(job_id, after=seen, task=task, level=level):
                    _print_line(line, as_json)


@click.command(epilog="Example: convsvc wait 01jd2k4v --timeout 3600")
@job_argument
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Give up after this long (the job goes on).")
@service_options
@json_option
def wait(job_id: str, timeout_s: float | None, service: Service, as_json: bool) -> None:
    """Wait until a job ends, and exit as it ended."""
    from convsvc.cli.connection import connect
    from convsvc.cli.watch import ended_well

    with connect(service) as client:
        job = client.job(job_id)
        with goes_on(job.id, "wait"):
            job = client.wait(job.id, timeout_s=timeout_s)
    _answer(job, as_json)
    ended_well(job)


@click.command(epilog="Example: convsvc cancel 01jd2k4v")
@job_argument
@service_options
@json_option
def cancel(job_id: str, service: Service, as_json: bool) -> None:
    """Ask a job to stop. Asking again changes nothing."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        _answer(client.cancel(job_id), as_json)


@click.command(epilog="Example: convsvc retry 01jd2k4v")
@job_argument
@service_options
@json_option
def retry(job_id: str, service: Service, as_json: bool) -> None:
    """Run a failed or canceled job again: a failed one goes on from what it has written, a canceled one begins anew."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        _answer(client.retry(job_id), as_json)


def _newest(client: Client, wanted: dict[str, Any], limit: int) -> list[JobView]:
    found: list[JobView] = []
    cursor: str | None = None
    while len(found) < limit:
        page = client.jobs(**wanted, limit=min(PAGE, limit - len(found)), cursor=cursor)
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _answer(job: JobView, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        say(f"{job.id}  {job.state}")


def _row(job: JobView, wide: bool, modes: bool, labels: bool) -> tuple[object, ...]:
    def cut(text: str | None) -> str:
        return "-" if not text else text if wide or len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."

    known = ",".join(f"{name}={value}" for name, value in sorted(job.labels.items())) or "-"
    took = between(job.started_at, job.ended_at) if job.started_at else "-"
    columns = (job.id, job.state, _progress(job), between(job.created_at), took, job.tenant, cut(job.model_type), cut(job.name))
    return *columns, *((job.mode,) if modes else ()), *((cut(known),) if labels else ()), job.target


def _progress(job: JobView) -> str:
    now = job.progress
    if not now.tasks_total:
        return f"{now.phase_tasks_done}/{now.phase_tasks_total} {now.phase}" if now.phase_tasks_total else "-"
    size = now.bytes_done + now.bytes_running
    share = f" {100 * size // now.bytes_total}%" if now.bytes_total else ""
    phase = f" {now.phase}" if now.phase and now.phase != "write" else ""
    return f"{now.tasks_done}/{now.tasks_total}{share}{phase}"


def _print_line(line: LogLine, as_json: bool) -> None:
    if as_json:
        say(json.dumps(asdict(line), default=plain))
        return
    task = "" if line.task is None else f"[task {line.task}] "
    say(f"{line.at:%Y-%m-%d %H:%M:%S} {line.level:<7} {task}{line.message}")
