"""`convsvc whoami`: who the service takes us for, and what we may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convsvc.cli.options import Service, json_option, print_json, service_options
from convsvc.cli.terminal import say
from convsvc.units import in_bytes

if TYPE_CHECKING:
    from convsvc.service.cluster_views import WhoAmI

_SAID = {
    "most_running_jobs": "running jobs",
    "most_queued_jobs": "queued jobs",
    "most_active_bytes": "to be written",
    "requests_per_minute": "requests a minute",
}


@click.command(epilog="Example: convsvc whoami --json")
@service_options
@json_option
def whoami(service: Service, as_json: bool) -> None:
    """Say who the token is: tenant, scopes, roots, limits and what counts against them now."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        found = client.whoami()
    if as_json:
        print_json(found)
        return
    roots = "anywhere" if found.roots is None else ", ".join(found.roots) or "nowhere: an administrator gives the tenant a root"
    for name, text in (("Name", found.name), ("Tenant", found.tenant), ("Scopes", ", ".join(found.scopes)), ("Roots", roots)):
        say(f"{name:<10}{text}")
    for number, name in enumerate(_SAID):
        say(f"{'Limits' if number == 0 else '':<10}{_limit(found, name)}")


def _limit(found: WhoAmI, name: str) -> str:
    bound, used = found.limits.get(name), found.use.get(name)
    sized = in_bytes if name == "most_active_bytes" else str
    of = "no limit" if bound is None else f"at most {sized(int(bound))}"
    return f"{_SAID[name]}: {of}" if used is None else f"{_SAID[name]}: {sized(used)} now, {of}"
