"""`convsvc audit`: who did what."""

from __future__ import annotations

import click

from convsvc.cli.administrator import day, job_store
from convsvc.cli.options import database_option, json_option, print_json, print_table


@click.command(epilog="Example: convsvc audit --tenant team-a --limit 20")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--action", help="Only this, e.g. submit, cancel, authenticate, token.create.")
@click.option("--job", metavar="ID", help="Only about this job.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many, newest first.")
@database_option
@json_option
def audit(tenant: str | None, action: str | None, job: str | None, limit: int, database_url: str | None, as_json: bool) -> None:
    """List who did what, newest first, from the job store itself."""
    from convsvc.service.access.audit import Audit

    with job_store(database_url) as database:
        entries = Audit(database).page(limit=limit, cursor=None, tenant=tenant, action=action, job_id=job).entries
    if as_json:
        print_json(entries)
        return
    rows = [(day(e.at), e.actor, e.tenant, e.action, e.outcome, e.job_id or "-", e.address or "-") for e in entries]
    print_table(("WHEN", "WHO", "TENANT", "WHAT", "OUTCOME", "JOB", "FROM"), rows)
