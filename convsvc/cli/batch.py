"""Batches: several jobs as one submission. The command `batches`, and what `submit --batch` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.human import between
from convsvc.cli.options import Service, json_option, print_fields, print_json, print_table, service_options
from convsvc.cli.terminal import say
from convsvc.errors import Canceled, error_from_dict
from convsvc.units import in_bytes

if TYPE_CHECKING:
    from convsvc.client import Client
    from convsvc.service.batch_views import BatchJob, BatchView


@click.command(epilog="Example: convsvc batches 01jd2k5v3x9w8r7q6p5n4m3k2j --wait")
@click.argument("batch_id", required=False)
@click.option("--wait", "is_waiting", is_flag=True, help="Until all its jobs have ended; exit as they ended.")
@click.option("--cancel", is_flag=True, help="Ask all its jobs that have not ended to stop.")
@service_options
@json_option
def batches(batch_id: str | None, is_waiting: bool, cancel: bool, service: Service, as_json: bool) -> None:
    """List the newest batches; with an id show one: its progress, and its report job by job."""
    if batch_id is None and (is_waiting or cancel):
        raise click.UsageError("--wait and --cancel need the batch's id")
    from convsvc.cli.connection import connect

    with connect(service) as client:
        if batch_id is None:
            found = client.batches(limit=500).batches
            if as_json:
                print_json(found)
            else:
                _list(found)
            return
        view = client.cancel_batch(batch_id) if cancel else client.batch(batch_id)
        view = client.wait_batch(batch_id) if is_waiting else view
    _show(view, as_json)
    if is_waiting:
        ended_well(view)


def submit_batch(service: Service, batch: dict[str, Any], key: str | None, *, watch: bool, as_json: bool) -> None:
    """Submit a batch and print its id; with `watch` its progress until it ends, and raise what its first bad job ended with."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        view = client.submit_batch(batch, key)
        if not as_json:
            say(view.id)
        if watch:
            view = _follow(client, view)
    if as_json:
        print_json(view)
    if watch:
        ended_well(view)


def ended_well(batch: BatchView) -> None:
    """Raises the error with which the first of its jobs failed, or Canceled."""
    for job in batch.jobs or ():
        if job.state == "failed":
            raise error_from_dict(job.error or {"message": f"job {job.id} failed"})
    if batch.state == "canceled":
        raise Canceled(f"jobs of batch {batch.id} were canceled")


def _follow(client: Client, batch: BatchView) -> BatchView:
    """Prints each job's end, in the order in which they end."""
    from convsvc.cli.watch import ended_well as job_ended_well
    from convsvc.errors import ConvsvcError

    for job in client.batch(batch.id).jobs or ():
        try:
            job_ended_well(client.wait(job.id))
            say(f"{job.id}  succeeded  {job.target}", err=True)
        except ConvsvcError as error:
            say(f"{job.id}  {error.title}  {job.target}: {error.message}", err=True)
    return client.batch(batch.id)


def _list(found: list[BatchView]) -> None:
    head = ("ID", "NAME", "STATE", "JOBS", "BYTES", "AGE")
    print_table(head, [(one.id, one.name or "-", one.state, _counted(one), _bytes(one), between(one.created_at)) for one in found])


def _show(one: BatchView, as_json: bool) -> None:
    if as_json:
        print_json(one)
        return
    print_fields({"id": one.id, "name": one.name, "state": one.state, "jobs": _counted(one), "bytes": _bytes(one)})
    print_table(("JOB", "STATE", "BYTES", "SOURCE", "TARGET"), [_row(job) for job in one.jobs or ()])
    for job in one.jobs or ():
        for note in job.notes:
            say(f"{job.id}: {note.get('kind')}: {note.get('text')}")
        if job.error:
            say(f"{job.id}: {job.error.get('message')}")


def _row(job: BatchJob) -> tuple[object, ...]:
    state = "already done" if job.already_done else job.state
    return job.id, state, f"{in_bytes(job.bytes_done)} of {in_bytes(job.bytes_total)}", job.source, job.target


def _counted(one: BatchView) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(one.states.items())) or "forgotten"


def _bytes(one: BatchView) -> str:
    return f"{in_bytes(one.bytes_done)} of {in_bytes(one.bytes_total)}"
