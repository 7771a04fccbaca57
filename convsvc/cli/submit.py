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
@click.option("--idempotency-key", metavar="KEY", help="Sending the same key again gives the same job.")
@json_option
def submit(
    service: Service, watch: bool, idempotency_key: str | None, priority: int | None, webhook: str | None, as_json: bool, **job: Any
) -> None:
    """Send a job to the service and print its id.

    The job is a JSON or YAML file, - for stdin, or made of the flags. Paths are those of the service's machines.
    """
    wanted = job_from(**job)
    if priority is not None:
        put(wanted, "priority", priority)
    if webhook is not None:
        put(wanted, "webhook.url", webhook)
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
