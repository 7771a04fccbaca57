"""`convsvc submit`: send a job to the service."""

from __future__ import annotations

from typing import Any

import click

from convsvc.cli.job_file import job_from, job_options, put
from convsvc.cli.options import Service, json_option, print_json, service_options
from convsvc.cli.terminal import say


@click.command(epilog="Example: convsvc submit job.json --watch --priority 10")
@job_options
@click.option("--priority", type=click.IntRange(-100, 100), help="In the tenant's queue: higher ones first. Wins over the job's own.")
@click.option("--webhook", metavar="URL", help="Called when the job has ended. Wins over the job's own.")
@service_options
@click.option("--watch", is_flag=True, help="Show progress until the job ends; exit as it ended.")
@click.option("--after", metavar="ID", multiple=True, help="Begin once this job has succeeded; may be repeated.")
@click.option("--batch", "is_batch", is_flag=True, help="The file is a batch: a job, and sources, targets or jobs.")
@click.option("--idempotency-key", metavar="KEY", help="Sending the same key again gives the same job.")
@json_option
def submit(
    service: Service,
    watch: bool,
    after: tuple[str, ...],
    is_batch: bool,
    idempotency_key: str | None,
    priority: int | None,
    webhook: str | None,
    as_json: bool,
    **job: Any,
) -> None:
    """Send a job to the service and print its id.

    The job is a JSON or YAML file, - for stdin, or made of the flags. Paths are those of the service's machines. With --batch the file
    holds "job", which all jobs have, and laid over it "sources" and "targets" (each source into each target) or "jobs". All of them are
    submitted, or none.
    """
    wanted = job_from(**job)
    shared = "job." if is_batch else ""
    stated = {"priority": priority, "webhook.url": webhook, "after": list(after) or None}
    for key, value in stated.items():
        if value is not None:
            put(wanted, shared + key, value)
    if is_batch:
        from convsvc.cli.batch import submit_batch

        submit_batch(service, wanted, idempotency_key, watch=watch, as_json=as_json)
        return
    from convsvc.cli.connection import connect

    with connect(service) as client:
        view = client.submit(wanted, idempotency_key=idempotency_key)
        if not as_json:
            say(view.id)
        if watch:
            from convsvc.cli.watch import follow_job

            view = follow_job(client, view.id)
    if as_json:
        print_json(view)
