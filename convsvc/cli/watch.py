"""Following a job on the service."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from convsvc.cli.progress import Display, make_display
from convsvc.errors import Canceled, ServiceError, error_from_dict

if TYPE_CHECKING:
    from convsvc.client import Client
    from convsvc.service.views import EventView, JobView

ENDED = frozenset({"succeeded", "failed", "canceled"})


def connect(url: str) -> Client:
    """A client of the service at `url`; nothing is sent yet."""
    # httpx imports its own command line (click, rich, pygments: 0.13 s) when they are installed, and does without if it cannot.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    from convsvc.client import Client

    return Client(url)


def follow_job(client: Client, job_id: str) -> JobView:
    """Show the job's progress until it ends, and return it. Raises the error it failed with, or Canceled."""
    display = make_display()
    try:
        for event in client.events(job_id):
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
