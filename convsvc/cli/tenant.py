"""`convsvc tenant`: who shares roots, quotas and a share of the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convsvc.cli.administrator import job_store, operator
from convsvc.cli.options import database_option, json_option, parse_size, print_fields, print_json, print_table
from convsvc.cli.terminal import say
from convsvc.units import in_bytes

if TYPE_CHECKING:
    from convsvc.service.access.tenants import TenantView

Function = TypeVar("Function", bound=Callable[..., Any])
ANY = -1  # what `none` on the command line becomes, until it is made None: None is what was not given


def limit(parse: Callable[[str], int] = int) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """An option's callback: a number, or `none` for no limit."""

    def checked(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        if value is None or value == "none":
            return None if value is None else ANY
        try:
            number = parse(value)
        except ValueError:
            number = -1
        if number < 0:
            raise click.BadParameter(f"{value!r} is neither a number from 0 on nor none")
        return number

    return checked


def limit_options(function: Function) -> Function:
    """What a tenant may use."""
    for decorate in reversed(
        (
            click.option("--root", "roots", multiple=True, metavar="DIR", help="Where its jobs may read and write; may be repeated."),
            click.option("--most-running-jobs", metavar="N|none", callback=limit(), help="At once; what is more waits."),
            click.option("--most-queued-jobs", metavar="N|none", callback=limit(), help="At once; what is more is refused (429)."),
            click.option(
                "--most-active-bytes",
                metavar="BYTES|none",
                callback=limit(parse_size),
                help="To be written by unfinished jobs, e.g. 5TB; 429 beyond.",
            ),
            click.option("--requests-per-minute", metavar="N|none", callback=limit(), help="To each API process; 429 beyond."),
            click.option("--weight", type=click.FloatRange(min=0, min_open=True), help="Of its share of the cluster (1 without it)."),
        )
    ):
        function = decorate(function)
    return function


@click.group(epilog="Example: convsvc tenant list")
def tenant() -> None:
    """Make, list, change and remove tenants.

    These commands open the job store itself: run them where the service runs, with its CONVSVC_DATABASE_URL or CONVSVC_HOME.
    """


@tenant.command(epilog="Example: convsvc tenant create team-a --root /shared/team-a --root /shared/hf --most-queued-jobs 100")
@click.argument("name")
@limit_options
@database_option
@json_option
def create(name: str, database_url: str | None, as_json: bool, **values: Any) -> None:
    """Add a tenant. Without a root its jobs are refused."""
    from convsvc.service.access.tenants import Tenants

    with job_store(database_url) as database:
        _answer(Tenants(database).create(name, actor=operator(), **given(values)), as_json)


@tenant.command("set", epilog="Example: convsvc tenant set team-a --most-active-bytes 5TB --most-running-jobs none")
@click.argument("name")
@limit_options
@database_option
@json_option
def set_tenant(name: str, database_url: str | None, as_json: bool, **values: Any) -> None:
    """Change what is given; the rest stays. Roots that are given replace the old ones. Running services follow within seconds."""
    from convsvc.service.access.tenants import Tenants

    with job_store(database_url) as database:
        _answer(Tenants(database).set(name, actor=operator(), **given(values)), as_json)


@tenant.command("list", epilog="Example: convsvc tenant list --json")
@database_option
@json_option
def list_tenants(database_url: str | None, as_json: bool) -> None:
    """List the tenants with what they may use."""
    from convsvc.service.access.tenants import Tenants

    with job_store(database_url) as database:
        tenants = Tenants(database).list()
    if as_json:
        print_json(tenants)
    else:
        print_table(("NAME", "WEIGHT", "RUNNING", "QUEUED", "BYTES", "REQUESTS/MIN", "ROOTS"), [_row(each) for each in tenants])


@tenant.command(epilog="Example: convsvc tenant remove team-a")
@click.argument("name")
@database_option
@json_option
def remove(name: str, database_url: str | None, as_json: bool) -> None:
    """Remove a tenant and its tokens. Its jobs stay, for administrators to see; unfinished ones are in the way."""
    from convsvc.service.access.tenants import Tenants

    with job_store(database_url) as database:
        tokens = Tenants(database).remove(name, actor=operator())
    if as_json:
        print_json({"removed": name, "tokens": tokens})
    else:
        say(f"{name}  removed, with {tokens} token{'' if tokens == 1 else 's'}")


def given(values: dict[str, Any]) -> dict[str, Any]:
    """What was on the command line.

    >>> given({"roots": (), "weight": None, "most_running_jobs": ANY, "most_queued_jobs": 3})
    {'most_running_jobs': None, 'most_queued_jobs': 3}
    """
    return {name: None if value == ANY else value for name, value in values.items() if value not in (None, ())}


def _answer(view: TenantView, as_json: bool) -> None:
    from convsvc.service.access.tenants import as_fields

    if as_json:
        print_json(view)
        return
    print_fields(as_fields(view))
    for root in view.roots:
        if not os.path.isdir(root):
            say(f"{root} is no directory on this machine: its jobs need it where executors and workers run", err=True)
    if not view.roots:
        say(f"it has no root, so its jobs are refused; give it one: convsvc tenant set {view.name} --root DIR", err=True)


def _row(view: TenantView) -> tuple[Any, ...]:
    limits = (view.most_running_jobs, view.most_queued_jobs)
    size = "-" if view.most_active_bytes is None else in_bytes(view.most_active_bytes)
    shown = ["-" if limit is None else limit for limit in limits]
    rate = "-" if view.requests_per_minute is None else view.requests_per_minute
    return view.name, f"{view.weight:g}", *shown, size, rate, " ".join(view.roots) or "-"
