"""`convsvc staged`: what unfinished jobs have written beside their targets, and giving it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convsvc.cli.administrator import day, job_store, operator
from convsvc.cli.options import database_option, json_option, print_json, print_table
from convsvc.cli.terminal import say
from convsvc.errors import JobError
from convsvc.units import counted, in_bytes

if TYPE_CHECKING:
    from convsvc.service.store.database import Database
    from convsvc.service.store.staged import Staged


@click.command(epilog="Example: convsvc staged --remove 01JD2K")
@click.option("--tenant", metavar="NAME", help="One tenant's only.")
@click.option(
    "--remove", "removed", metavar="JOB", multiple=True, help="Cancel this job, which failed or waits; an executor removes its bytes."
)
@database_option
@json_option
def staged(tenant: str | None, removed: tuple[str, ...], database_url: str | None, as_json: bool) -> None:
    """List the bytes that unfinished jobs have staged: whose they are, where they lie, how many.

    A job that failed goes on from them when it is retried, so `convsvc purge` does not forget it as long as they are there. This command
    opens the job store itself: run it where the service runs, with its CONVSVC_DATABASE_URL or CONVSVC_HOME. Sizes are as this machine sees
    them.
    """
    from convsvc.service.store.staged import list_staged

    with job_store(database_url) as database:
        for job_id in removed:
            _give_back(database, job_id, as_json)
        found = list_staged(database, tenant)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _give_back(database: Database, job_id: str, quiet: bool) -> None:
    from convsvc.service.access.audit import add_entry
    from convsvc.service.store.jobs import Store

    store = Store(database)
    job = store.job(job_id)
    if job.state not in ("failed", "queued"):
        raise JobError(
            f"job {job.id} is {job.state}: only what a job that failed or waits has staged is removed", do=f"convsvc cancel {job.id}"
        )
    after = store.cancel(job.id)
    with database.writing() as session:
        add_entry(session, actor=operator(), tenant=job.tenant, action="cancel", job_id=job.id, detail={"staged": "removed"})
    if not quiet:
        comes = ": an executor removes what it has staged" if after.state == "canceling" else ""
        say(f"job {job.id} is {after.state}{comes}")


def _print(found: list[Staged]) -> None:
    head = ("JOB", "STATE", "TENANT", "BY", "SINCE", "SIZE", "STAGED IN")
    rows = [(one.job, one.state, one.tenant, one.submitted_by or "-", day(one.ended_at), _size(one), one.staging) for one in found]
    print_table(head, rows)
    total = sum(one.size_bytes or 0 for one in found)
    say(f"{counted(len(found), 'job')}, {in_bytes(total)}")


def _size(one: Staged) -> str:
    return "not here" if one.size_bytes is None else in_bytes(one.size_bytes)
