"""`convsvc watch`: following a job on the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.options import Service, json_option, print_json, service_options
from convsvc.cli.progress import Display, make_display
from convsvc.errors import Canceled, ServiceError, error_from_dict

if TYPE_CHECKING:
    from convsvc.client import Client
    from convsvc.service.views import EventView, JobView

ENDED = frozenset({"succeeded", "failed", "canceled"})


@click.command(epilog="Example: convsvc watch 01JD2K")
@click.argument("job_id")
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
    current, shown = client.job(job_id).run, 1
    display = make_display()
    try:
        for event in client.events(job_id):
            shown = event.data.get("run", shown)
            if shown >= current:
                show_event(display, event)
    finally:
        display.close()
    return ended_well(client.job(job_id))


def ended_well(job: JobView) -> JobView:
    """The job, if it succeeded. Raises the error it failed with, Canceled, or ServiceError if it has not ended."""
    if job.state == "succeeded":
        return job
    if job.state == "canceled":
        raise Canceled(f"job {job.id} was canceled", do=f"convsvc retry {job.id} goes on where it stopped")
    if job.state == "failed":
        raise error_from_dict(job.error or {"message": f"job {job.id} failed"})
    raise ServiceError(f"job {job.id} has not ended: it is {job.state}", do=f"convsvc wait {job.id}")


def show_event(display: Display, event: EventView) -> None:
    data = event.data
    if event.kind == "phase":
        display.phase(str(data.get("phase")), int(data.get("total") or 0))
    elif event.kind == "planned":
        display.line(f"planned: {data.get('model_type')}, {data.get('tasks')} tasks")
    elif event.kind == "task":
        _show_task(display, data)
    elif event.kind == "state" and data.get("state") in ENDED | {"queued", "canceling"}:
        display.line(str(data["state"]))


def _show_task(display: Display, data: dict[str, Any]) -> None:
    if data.get("state") == "done":
        display.advance(int(data.get("tasks_done") or 0), int(data.get("tasks_total") or 0), int(data.get("bytes_done") or 0))
    elif data.get("state") == "failed":
        again = "; trying again" if data.get("will_retry") else ""
        display.line(f"{data.get('name')}: {(data.get('error') or {}).get('message')}{again}")
