"""`convsvc status`: one job, as a person wants to read it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.completing import job_argument
from convsvc.cli.human import between, duration, moment
from convsvc.cli.options import Service, json_option, print_json, print_table, service_options
from convsvc.cli.terminal import say, shown
from convsvc.units import counted, in_bytes

if TYPE_CHECKING:
    from convsvc.client import Client
    from convsvc.service.views import AttemptView, JobView, TaskView

TASK_STATES = ("pending", "running", "done", "failed")
OF_NOTE = ("running", "failed")
MOST_TASKS, MOST_ATTEMPTS = 10, 5
WIDTH = 14
Row = tuple[str, str]


@click.command(epilog="Example: convsvc status 01jd2k4v --tasks --task-state failed --limit 50")
@job_argument
@click.option("--tasks", "all_tasks", is_flag=True, help="List the tasks; without it only those that run or failed, the first ten.")
@click.option(
    "--task-state", "states", multiple=True, type=click.Choice(TASK_STATES), help="Only tasks in this state; several times for several."
)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many tasks.")
@click.option("--after", default=-1, type=click.IntRange(-1), metavar="NUMBER", help="Only tasks with higher numbers: the next page.")
@service_options
@json_option
def status(job_id: str, all_tasks: bool, states: tuple[str, ...], limit: int, after: int, service: Service, as_json: bool) -> None:
    """Show one job: state and why it waits, times, progress, attempts that failed and where, tasks, and what to do next."""
    from convsvc.cli.connection import connect

    listed = all_tasks or bool(states) or after >= 0
    with connect(service) as client:
        job = client.job(job_id)
        wanted = states or (() if listed or as_json else OF_NOTE)
        most = limit if listed else None if as_json else MOST_TASKS
        tasks = client.tasks(job.id, states=wanted, after=after, limit=most)
        counts, failed = client.task_counts(job.id), _failed(client, job)
    if as_json:
        more = {"tasks": tasks, "task_counts": counts, "failed_attempts": failed}
        print_json(
            {**asdict(job), **{name: [asdict(one) for one in value] if isinstance(value, list) else value for name, value in more.items()}}
        )
        return
    _print_rows([*_what(job), *_when(job), *_how_far(job, counts), *_outcome(job)])
    _print_attempts(failed)
    _print_tasks(job, tasks, counts, most if most is not None else len(tasks))
    _print_next(job)


def _failed(client: Client, job: JobView) -> list[AttemptView]:
    return [] if job.started_at is None and job.run == 1 else client.attempts(job.id, bad=True, limit=MOST_ATTEMPTS)


def _what(job: JobView) -> Iterator[Row]:
    spec = job.spec
    yield "Job", job.id + ("" if job.mode == "convert" else f", to {job.mode}: it writes nothing")
    if job.name:
        yield "Name", job.name
    yield "State", job.state + (f" ({job.progress.phase})" if job.progress.phase else "") + (", a cancel was asked for" * _canceling(job))
    if job.waiting:
        yield "Waiting", job.waiting.text + (f" (for {between(job.waiting.since)})" if job.waiting.since else "")
    if job.model_type:
        yield "Model", job.model_type
    if job.labels:
        yield "Labels", ", ".join(f"{name}={value}" for name, value in sorted(job.labels.items()))
    for side, path in (("Source", job.source), ("Target", job.target)):
        yield side, f"{path}  ({_layout(spec.get(side.lower()) or {})})"
    by = f", submitted by {job.submitted_by}" if job.submitted_by else ""
    yield "Tenant", f"{job.tenant}{by}, priority {job.priority}"


def _when(job: JobView) -> Iterator[Row]:
    yield "Submitted", moment(job.created_at)
    if job.started_at:
        waited = f", after {between(job.queued_at, job.started_at)} in the queue" if job.queued_at else ""
        yield "Started", moment(job.started_at) + waited
    if job.ended_at:
        yield "Ended", moment(job.ended_at) + (f", after {between(job.started_at, job.ended_at)}" if job.started_at else "")
    elif job.started_at:
        yield "Running for", between(job.started_at)
    if job.run > 1:
        yield "Run", f"{job.run}: it was retried"
    if job.executor:
        yield "Executor", job.executor


def _how_far(job: JobView, counts: dict[str, int]) -> Iterator[Row]:
    now = job.progress
    if now.tasks_total:
        size = now.bytes_done + now.bytes_running
        rate = f", {in_bytes(int(now.rate_bytes_s))}/s" if now.rate_bytes_s and now.phase == "write" else ""
        share = f" ({100 * size // now.bytes_total} %)" if now.bytes_total else ""
        yield (
            "Written",
            f"{now.tasks_done} of {counted(now.tasks_total, 'task')}, {in_bytes(size)} of {in_bytes(now.bytes_total)}{share}{rate}",
        )
    if now.phase_tasks_total and now.phase != "write":
        of = f" of {in_bytes(now.phase_bytes_total)}" if now.phase_bytes_total else ""
        rate = f", {in_bytes(int(now.rate_bytes_s))}/s" if now.rate_bytes_s else ""
        total = counted(now.phase_tasks_total, "task" if job.mode == "convert" else "part")
        yield now.phase.capitalize(), f"{now.phase_tasks_done} of {total}, {in_bytes(now.phase_bytes_done)}{of}{rate}"
    if now.eta_s is not None and job.ended_at is None:
        yield "Time left", f"{duration(now.eta_s)}: {now.eta_basis}"
    if counts:
        yield "Tasks", ", ".join(f"{counts[state]} {state}" for state in ("done", "running", "failed", "pending") if counts.get(state))
    if job.staged:
        yield (
            "Staging",
            f".{PurePosixPath(job.target).name}.convsvc beside the target (in it, where that is a mount): what was written so far",
        )
    if job.plan:
        yield from _planned(job.plan, "write" if job.mode == "convert" else "compare")


def _planned(plan: dict[str, Any], do: str) -> Iterator[Row]:
    source, target = plan.get("source") or {}, plan.get("target") or {}
    if source and target:
        files, tensors = counted(source.get("files"), "file"), counted(source.get("tensors"), "tensor")
        read = f"{files}, {tensors}, {in_bytes(int(source.get('bytes_read') or 0))} to read"
        yield "Plan", f"{read}; {counted(target.get('files'), 'file')}, {in_bytes(int(target.get('bytes') or 0))} to {do}"


def _outcome(job: JobView) -> Iterator[Row]:
    result = job.result or {}
    took = result.get("phase_seconds") or {}
    if took:
        yield (
            "Phases",
            ", ".join(f"{name} {duration(float(seconds))}" for name, seconds in took.items() if float(seconds) >= 0.05)
            or "each under 0.1s",
        )
    for name in ("bytes_read", "bytes_written"):
        if name in result:
            yield name.replace("bytes_", "").replace("read", "Bytes read").replace("written", "Bytes written"), in_bytes(int(result[name]))
    if job.report:
        yield "Report", job.report
    if job.error:
        lines = [f"{job.error.get('type', 'error')}: {job.error.get('message')}", *(f"  {fact}" for fact in job.error.get("facts") or ())]
        yield "Error", "\n".join([*lines, *([f"  do: {job.error['do']}"] if job.error.get("do") else [])])
    if job.notes:
        yield "Notes", "\n".join(f"{note.get('kind')}: {note.get('text')}" for note in job.notes)


def _print_rows(rows: list[Row]) -> None:
    for name, text in rows:
        lines = shown(text).split("\n")
        say(f"{name:<{WIDTH}}{lines[0]}")
        for line in lines[1:]:
            say(f"{'':<{WIDTH}}{line}")


def _print_attempts(attempts: list[AttemptView]) -> None:
    if not attempts:
        return
    say("\nAttempts that failed, the newest first")
    head = ("  RUN", "TASK", "ATTEMPT", "WHERE", "AGO", "LASTED", "OUTCOME", "ERROR")
    rows = [
        (
            f"  {one.run}",
            one.task,
            one.attempt,
            one.worker or "-",
            between(one.started_at),
            between(one.started_at, one.ended_at),
            one.outcome,
            _short(one.error),
        )
        for one in attempts
    ]
    print_table(head, rows)


def _print_tasks(job: JobView, tasks: list[TaskView], counts: dict[str, int], most: int) -> None:
    if not tasks:
        return
    say()
    head = ("TASK", "STATE", "ATTEMPT", "BYTES", "LASTED", "WHERE", "NAME")
    print_table(head, [(t.number, t.state, t.attempt, in_bytes(t.bytes), _lasted(t), t.worker or "-", t.name) for t in tasks])
    if len(tasks) == most and sum(counts.values()) > most:
        say(f"there may be more: convsvc status {job.id} --tasks --after {tasks[-1].number}")


_CHECKED = {
    "succeeded": "nothing: nothing differs",
    "canceled": "nothing is left of it",
    "canceling": "it ends once what it reads now is compared",
}


def _print_next(job: JobView) -> None:
    steps = _CHECKED | {"failed": f"convsvc retry {job.id} looks again; its log: convsvc logs {job.id}"} if job.mode != "convert" else {
        "succeeded": f"the target is {job.target}; check it: convsvc inspect {job.target}",
        "failed": f"convsvc retry {job.id}" + (" goes on with what is staged" if job.staged else "")
        + (f"; convsvc cancel {job.id} removes it" if job.staged else "") + f"; its log: convsvc logs {job.id} --level warning",
        "canceled": f"convsvc retry {job.id} begins anew: a cancel leaves nothing",
        "canceling": "it ends once what is staged is removed",
    }  # fmt: skip
    watching = f"convsvc watch {job.id} follows it; convsvc cancel {job.id} ends it"
    if job.waiting and job.waiting.reason == "no-executor":
        watching = f"start an executor: convsvc executor; or convsvc cancel {job.id}"
    say()
    say(f"{'Next':<{WIDTH}}{steps.get(job.state, watching)}")


def _canceling(job: JobView) -> bool:
    return job.cancel_requested and job.state not in ("canceling", "canceled")


def _layout(side: dict[str, Any]) -> str:
    """The format, with what is said of it beside its path."""
    said = [
        f"{name} {value}"
        for name, value in side.items()
        if name not in ("format", "path") and isinstance(value, str | int) and value is not False
    ]
    return ", ".join([str(side.get("format", "?")), *said])


def _lasted(task: TaskView) -> str:
    if task.seconds is not None:
        return duration(task.seconds)
    return between(task.started_at, task.ended_at) if task.started_at else "-"


def _short(error: dict[str, Any] | None) -> str:
    return textwrap.shorten(str((error or {}).get("message") or "nobody reported how it ended"), 100, placeholder="...")
