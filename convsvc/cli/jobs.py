"""The commands about jobs that the service has: `ps`, `inspect-job`, `logs`, `wait`, `cancel`, `retry`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.options import in_bytes, json_option, print_fields, print_json, print_table, url_option

if TYPE_CHECKING:
    from convsvc.client import Client
    from convsvc.service.views import JobView

FOLLOW_EVERY_S = 0.5


@click.command(epilog="Example: convsvc ps --state running")
@click.option("--state", help="Only jobs in this state, e.g. queued, running, failed.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="How many, newest first.")
@url_option
@json_option
def ps(state: str | None, limit: int, url: str, as_json: bool) -> None:
    """List the service's jobs, newest first."""
    from convsvc.cli.watch import connect

    with connect(url) as client:
        jobs = client.jobs(state=state, limit=limit).jobs
    if as_json:
        print_json(jobs)
    else:
        print_table(("ID", "STATE", "TASKS", "MODEL", "NAME", "TARGET"), [_row(job) for job in jobs])


@click.command("inspect-job", epilog="Example: convsvc inspect-job 01JD2K")
@click.argument("job_id")
@url_option
@json_option
def inspect_job(job_id: str, url: str, as_json: bool) -> None:
    """Show one job: state, progress, plan, tasks, and how it ended."""
    from convsvc.cli.watch import connect

    with connect(url) as client:
        job, tasks = client.job(job_id), client.tasks(job_id)
    if as_json:
        print_json({**asdict(job), "tasks": [asdict(task) for task in tasks]})
        return
    print_fields(_fields(job))
    if tasks:
        click.echo()
        print_table(
            ("TASK", "STATE", "ATTEMPT", "BYTES", "NAME"),
            [(t.number, t.state, t.attempt, in_bytes(t.bytes), t.name) for t in tasks],
        )


@click.command(epilog="Example: convsvc logs 01JD2K --follow")
@click.argument("job_id")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@url_option
@json_option
def logs(job_id: str, follow: bool, url: str, as_json: bool) -> None:
    """Print a job's log."""
    from convsvc.cli.watch import ENDED, connect

    with connect(url) as client:
        seen, ended = 0, False
        while not ended:
            ended = not follow or client.job(job_id).state in ENDED  # asked before reading, so that the last lines are not missed
            seen = _print_lines(client, job_id, seen, as_json)
            time.sleep(0 if ended else FOLLOW_EVERY_S)


@click.command(epilog="Example: convsvc wait 01JD2K --timeout 3600")
@click.argument("job_id")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Give up after this long (the job goes on).")
@url_option
@json_option
def wait(job_id: str, timeout_s: float | None, url: str, as_json: bool) -> None:
    """Wait until a job ends, and exit as it ended."""
    from convsvc.cli.watch import connect, ended_well

    with connect(url) as client:
        job = client.wait(job_id, timeout_s=timeout_s)
    _answer(job, as_json)
    ended_well(job)


@click.command(epilog="Example: convsvc cancel 01JD2K")
@click.argument("job_id")
@url_option
@json_option
def cancel(job_id: str, url: str, as_json: bool) -> None:
    """Ask a job to stop."""
    from convsvc.cli.watch import connect

    with connect(url) as client:
        _answer(client.cancel(job_id), as_json)


@click.command(epilog="Example: convsvc retry 01JD2K")
@click.argument("job_id")
@url_option
@json_option
def retry(job_id: str, url: str, as_json: bool) -> None:
    """Run a failed or canceled job again; what is done already is kept."""
    from convsvc.cli.watch import connect

    with connect(url) as client:
        _answer(client.retry(job_id), as_json)


def _answer(job: JobView, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        click.echo(f"{job.id}  {job.state}")


def _row(job: JobView) -> tuple[object, ...]:
    done = f"{job.progress.tasks_done}/{job.progress.tasks_total}" if job.progress.tasks_total else "-"
    return job.id, job.state, done, job.model_type or "-", job.name or "-", job.target


def _fields(job: JobView) -> dict[str, Any]:
    fields = asdict(job)
    fields.pop("spec")
    progress = fields.pop("progress")
    return {**fields, "progress": {name: value for name, value in progress.items() if value}}


def _print_lines(client: Client, job_id: str, after: int, as_json: bool) -> int:
    for line in client.logs(job_id, after=after):
        if as_json:
            print_json(line)
        else:
            click.echo(f"{line.at:%Y-%m-%d %H:%M:%S} {line.level:<7} {line.message}")
        after = line.seq
    return after
