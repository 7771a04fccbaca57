"""`convsvc watch`: following a job on the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.completing import job_argument
from convsvc.cli.human import between
from convsvc.cli.options import Service, json_option, print_json, service_options
from convsvc.cli.progress import Display, Step, make_display
from convsvc.cli.watching import goes_on
from convsvc.client.answers import progress_of, waiting_view
from convsvc.errors import Canceled, ServiceError, error_from_dict
from convsvc.units import counted

if TYPE_CHECKING:
    from convsvc.client import Client
    from convsvc.service.views import EventView, JobView, Progress, Waiting

ENDED = frozenset({"succeeded", "failed", "canceled"})


@click.command(epilog="Example: convsvc watch 01jd2k4v")
@job_argument
@service_options
@json_option
def watch(job_id: str, service: Service, as_json: bool) -> None:
    """Show a job's progress until it ends, and exit as it ended."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        job = follow_job(client, job_id)
    if as_json:
        print_json(job)


def follow_job(client: Client, job_id: str) -> JobView:
    """Show the progress of the job's current run until it ends, and return it. Raises the error it failed with, or Canceled."""
    job = client.job(job_id)
    current, shown, well = job.run, 1, False
    display = make_display()
    with goes_on(job.id, "watch"):
        try:
            for event in client.events(job.id, live=True):
                shown = event.data.get("run", shown)
                if shown >= current:
                    show_event(display, event)
                    well = event.kind == "state" and event.data.get("state") == "succeeded"
        finally:
            display.close(well=well)
        return ended_well(client.job(job.id))


def ended_well(job: JobView) -> JobView:
    """The job, if it succeeded. Raises the error it failed with, Canceled, or ServiceError if it has not ended."""
    if job.state == "succeeded":
        return job
    if job.state == "canceled":
        raise Canceled(f"job {job.id} was canceled", do=f"convsvc retry {job.id} begins anew: a cancel leaves nothing")
    if job.state == "failed":
        raise error_from_dict(job.error or {"message": f"job {job.id} failed"})
    raise ServiceError(f"job {job.id} has not ended: it is {job.state}", do=f"convsvc wait {job.id}")


def show_event(display: Display, event: EventView) -> None:
    data = event.data
    if event.kind == "phase":
        display.phase(str(data.get("phase")), int(data.get("total") or 0))
    elif event.kind == "planned":
        _show_planned(display, data)
    elif event.kind == "task":
        _show_task(display, data)
    elif event.kind == "progress" and data:
        display.advance(step_of(progress_of(data)))
    elif event.kind == "waits" and data:
        display.line(waiting_line(waiting_view(data)))
    elif event.kind == "state" and data.get("state") in ENDED | {"queued", "canceling"}:
        display.line(str(data["state"]))


def step_of(now: Progress) -> Step:
    """Progress as it is drawn: of the whole job while it writes, of the phase in the others."""
    if now.phase == "write":
        size = now.bytes_done + now.bytes_running
        return Step(now.tasks_done, now.tasks_total, size, now.bytes_total, now.rate_bytes_s, now.eta_s)
    return Step(now.phase_tasks_done, now.phase_tasks_total, now.phase_bytes_done, now.phase_bytes_total, now.rate_bytes_s, now.eta_s)


def waiting_line(waiting: Waiting) -> str:
    since = f" (for {between(waiting.since)})" if waiting.since else ""
    return f"waiting: {waiting.text}{since}"


def _show_planned(display: Display, data: dict[str, Any]) -> None:
    """A job that compares only has no tasks, and what two checkpoints are is not known before they are read."""
    if data.get("tasks"):
        display.line(f"planned: {data.get('model_type')}, {counted(data['tasks'], 'task')}")
    elif data.get("model_type"):
        display.line(f"planned: {data['model_type']}")


def _show_task(display: Display, data: dict[str, Any]) -> None:
    if data.get("state") == "done":
        counts = [int(data.get(name) or 0) for name in ("tasks_done", "tasks_total", "bytes_done", "bytes_total")]
        display.advance(Step(*counts))
    elif data.get("state") == "failed":
        again = "; trying again" if data.get("will_retry") else ""
        display.line(f"{data.get('name')}: {(data.get('error') or {}).get('message')}{again}")
