"""The commands about jobs that the service has: `jobs`, `status`, `logs`, `wait`, `cancel`, `retry`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.options import Service, in_bytes, json_option, plain, print_fields, print_json, print_table, service_options
from convsvc.cli.terminal import say

if TYPE_CHECKING:
    from convsvc.client import Client
    from convsvc.service.views import JobView, LogLine

PAGE = 100
STATES = ("queued", "planning", "running", "sealing", "verifying", "canceling", "succeeded", "failed", "canceled")
LEVELS = ("debug", "info", "warning", "error", "critical")


@click.command(epilog="Example: convsvc jobs --state running --tenant team-a")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--tenant", metavar="NAME", help="Only this tenant's; an administrator sees all tenants' otherwise.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="How many, newest first.")
@service_options
@json_option
def jobs(state: str | None, tenant: str | None, limit: int, service: Service, as_json: bool) -> None:
    """List the service's jobs, newest first."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        found = _newest(client, state, tenant, limit)
    if as_json:
        print_json(found)
    else:
        print_table(("ID", "STATE", "TASKS", "TENANT", "MODEL", "NAME", "TARGET"), [_row(job) for job in found])


@click.command(epilog="Example: convsvc status 01JD2K")
@click.argument("job_id")
@service_options
@json_option
def status(job_id: str, service: Service, as_json: bool) -> None:
    """Show one job: state, progress, plan, tasks, and how it ended."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        job, tasks = client.job(job_id), client.tasks(job_id)
    if as_json:
        print_json({**asdict(job), "tasks": [asdict(task) for task in tasks]})
        return
    print_fields(_fields(job))
    if tasks:
        say()
        print_table(
            ("TASK", "STATE", "ATTEMPT", "BYTES", "NAME"),
            [(t.number, t.state, t.attempt, in_bytes(t.bytes), t.name) for t in tasks],
        )


@click.command(epilog="Example: convsvc logs 01JD2K --follow --task 3")
@click.argument("job_id")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@click.option("--task", type=click.IntRange(0), metavar="NUMBER", help="Only what is about this task; `convsvc status` numbers them.")
@click.option("--level", type=click.Choice(LEVELS), help="Only this level and those above.")
@service_options
@json_option
def logs(job_id: str, follow: bool, task: int | None, level: str | None, service: Service, as_json: bool) -> None:
    """Print a job's log; with --json a line of JSON for each of its lines."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        seen = 0
        while lines := client.logs(job_id, after=seen, task=task, level=level):
            seen = lines[-1].seq
            for line in lines:
                _print_line(line, as_json)
        if follow:
            for line in client.follow_logs(job_id, after=seen, task=task, level=level):
                _print_line(line, as_json)


@click.command(epilog="Example: convsvc wait 01JD2K --timeout 3600")
@click.argument("job_id")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Give up after this long (the job goes on).")
@service_options
@json_option
def wait(job_id: str, timeout_s: float | None, service: Service, as_json: bool) -> None:
    """Wait until a job ends, and exit as it ended."""
    from convsvc.cli.connection import connect
    from convsvc.cli.watch import ended_well

    with connect(service) as client:
        job = client.wait(job_id, timeout_s=timeout_s)
    _answer(job, as_json)
    ended_well(job)


@click.command(epilog="Example: convsvc cancel 01JD2K")
@click.argument("job_id")
@service_options
@json_option
def cancel(job_id: str, service: Service, as_json: bool) -> None:
    """Ask a job to stop. Asking again changes nothing."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        _answer(client.cancel(job_id), as_json)


@click.command(epilog="Example: convsvc retry 01JD2K")
@click.argument("job_id")
@service_options
@json_option
def retry(job_id: str, service: Service, as_json: bool) -> None:
    """Run a failed or canceled job again: a failed one goes on from what it has written, a canceled one begins anew."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        _answer(client.retry(job_id), as_json)


def _newest(client: Client, state: str | None, tenant: str | None, limit: int) -> list[JobView]:
    found: list[JobView] = []
    cursor: str | None = None
    while len(found) < limit:
        page = client.jobs(state=state, tenant=tenant, limit=min(PAGE, limit - len(found)), cursor=cursor)
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


def _row(job: JobView) -> tuple[object, ...]:
    done = f"{job.progress.tasks_done}/{job.progress.tasks_total}" if job.progress.tasks_total else "-"
    return job.id, job.state, done, job.tenant, job.model_type or "-", job.name or "-", job.target


def _fields(job: JobView) -> dict[str, Any]:
    fields = asdict(job)
    fields.pop("spec")
    progress = fields.pop("progress")
    for said in ("plan", "result"):  # their notes, and where the report is, are the job's
        fields[said] = {name: value for name, value in (fields[said] or {}).items() if name not in ("notes", "report")}
    return {**fields, "progress": {name: value for name, value in progress.items() if value}}


def _print_line(line: LogLine, as_json: bool) -> None:
    if as_json:
        say(json.dumps(asdict(line), default=plain))
        return
    task = "" if line.task is None else f"[task {line.task}] "
    say(f"{line.at:%Y-%m-%d %H:%M:%S} {line.level:<7} {task}{line.message}")
