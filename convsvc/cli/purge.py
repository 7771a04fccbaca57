"""`convsvc purge`: forgetting old jobs, now instead of when the executor does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convsvc.cli.administrator import job_store, operator
from convsvc.cli.options import database_option, json_option, print_fields, print_json
from convsvc.cli.terminal import say

if TYPE_CHECKING:
    from convsvc.service.store.database import Database
    from convsvc.service.store.retention import Purged


@click.command(epilog="Example: convsvc purge --older-than-days 30 --dry-run")
@click.option(
    "--older-than-days",
    type=click.FloatRange(0, 36_500),
    default=90,
    show_default=True,
    help="Jobs that ended earlier are forgotten, with their tasks, events and logs.",
)
@click.option("--dry-run", is_flag=True, help="Say how many there are, and remove nothing.")
@database_option
@json_option
def purge(older_than_days: float, dry_run: bool, database_url: str | None, as_json: bool) -> None:
    """Forget jobs that ended long ago, what is too long of other jobs' logs, old audit rows, and webhooks that were sent.

    What jobs have written stays. This command opens the job store itself: run it where the service runs, with its CONVSVC_DATABASE_URL
    or CONVSVC_HOME. The service may run meanwhile.
    """
    from convsvc.service.store.retention import Retention, purge

    with job_store(database_url) as database:
        purged = purge(database, Retention(jobs_days=older_than_days), dry_run=dry_run)
        if not dry_run:
            _write_down(database, purged, older_than_days)
    if as_json:
        print_json(purged)
    else:
        _print(purged, dry_run)


def _write_down(database: Database, purged: Purged, days: float) -> None:
    from dataclasses import asdict

    from convsvc.service.access.audit import add_entry

    with database.writing() as session:
        add_entry(session, actor=operator(), tenant="*", action="purge", detail={"older_than_days": days, **asdict(purged)})


def _print(purged: Purged, dry_run: bool) -> None:
    from dataclasses import asdict

    say("would be removed" if dry_run else "removed")
    print_fields(asdict(purged), indent="  ")
