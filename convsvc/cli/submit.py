"""`convsvc submit`: send a job to the service."""

from __future__ import annotations

from typing import Any

import click

from convsvc.cli.job_file import job_from, job_options
from convsvc.cli.options import json_option, print_json, url_option


@click.command(epilog="Example: convsvc submit job.json --watch")
@job_options
@url_option
@click.option("--watch", is_flag=True, help="Show progress until the job ends; exit as it ended.")
@click.option("--idempotency-key", metavar="KEY", help="Sending the same key again gives the same job.")
@json_option
def submit(url: str, watch: bool, idempotency_key: str | None, as_json: bool, **job: Any) -> None:
    """Send a job to the service and print its id.

    The job is a JSON or YAML file, - for stdin, or made of the flags. Paths are those of the service's machines.
    """
    wanted = job_from(**job)
    from convsvc.cli.watch import connect, follow_job

    with connect(url) as client:
        view = client.submit(wanted, idempotency_key=idempotency_key)
        if not as_json:
            click.echo(view.id)
        if watch:
            view = follow_job(client, view.id)
    if as_json:
        print_json(view)
