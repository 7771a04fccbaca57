"""`convsvc token`: make, list and revoke the tokens that let clients in."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from convsvc.cli.administrator import day, job_store, operator
from convsvc.cli.options import database_option, json_option, print_json, print_table
from convsvc.cli.terminal import say
from convsvc.service.access.identity import SCOPES

if TYPE_CHECKING:
    from convsvc.service.access.tokens import TokenView


@click.group(epilog="Example: convsvc token list")
def token() -> None:
    """Make, list and revoke the tokens that let clients in.

    These commands open the job store itself: run them where the service runs, with its CONVSVC_DATABASE_URL or CONVSVC_HOME.
    """


@token.command(epilog="Example: convsvc token create --name ci --tenant team-a --expires-in-days 90")
@click.option("--name", required=True, help="Who bears it; the audit and the jobs say so.")
@click.option("--tenant", required=True, help="Whose jobs it submits and sees.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=("jobs:read", "jobs:write"),
    show_default=True,
    help="What it may do; several times for several.",
)
@click.option("--expires-in-days", type=click.FloatRange(min=0, min_open=True, max=36_500), metavar="DAYS", help="Without it: never.")
@database_option
@json_option
def create(name: str, tenant: str, scopes: tuple[str, ...], expires_in_days: float | None, database_url: str | None, as_json: bool) -> None:
    """Make a token and print it. It is shown this once: only its SHA-256 is kept."""
    from datetime import timedelta

    from convsvc.service.access.tokens import Tokens
    from convsvc.service.store.changes import now_utc

    expires_at = None if expires_in_days is None else now_utc() + timedelta(days=expires_in_days)
    with job_store(database_url) as database:
        view, text = Tokens(database).create(name, tenant, scopes, expires_at=expires_at, actor=operator())
    if as_json:
        print_json({**asdict(view), "token": text})
        return
    say(text)
    lasts = f"until {day(expires_at)} UTC" if expires_at else "until it is revoked"
    say(f"token {view.id} of tenant {tenant}, {', '.join(view.scopes)}, {lasts}; it is not shown again", err=True)


@token.command("list", epilog="Example: convsvc token list --tenant team-a")
@click.option("--tenant", help="Only this tenant's.")
@database_option
@json_option
def list_tokens(tenant: str | None, database_url: str | None, as_json: bool) -> None:
    """List the tokens that were made; never what they read."""
    from convsvc.service.access.tokens import Tokens
    from convsvc.service.store.changes import now_utc

    with job_store(database_url) as database:
        tokens = Tokens(database).list(tenant)
    now = now_utc()
    if as_json:
        print_json([{**asdict(view), "state": view.state(now)} for view in tokens])
    else:
        rows = [_row(view, view.state(now)) for view in tokens]
        print_table(("ID", "STATE", "TENANT", "NAME", "SCOPES", "EXPIRES", "LAST USED"), rows)


@token.command(epilog="Example: convsvc token revoke 3f0c9a5e71bd")
@click.argument("token_id", metavar="ID")
@database_option
@json_option
def revoke(token_id: str, database_url: str | None, as_json: bool) -> None:
    """Make a token useless, within five seconds on every running service."""
    from convsvc.service.access.tokens import Tokens

    with job_store(database_url) as database:
        view = Tokens(database).revoke(token_id, actor=operator())
    if as_json:
        print_json(view)
    else:
        say(f"{view.id}  revoked")


def _row(view: TokenView, state: str) -> tuple[Any, ...]:
    return view.id, state, view.tenant, view.name, ",".join(view.scopes), day(view.expires_at), day(view.last_used_at)
