"""Who works: the commands `executors` and `nodes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convsvc.cli.human import between
from convsvc.cli.options import Service, json_option, print_json, print_table, service_options
from convsvc.cli.terminal import say

if TYPE_CHECKING:
    from convsvc.service.cluster_views import ExecutorView

MOST_NAMED = 4


@click.command(epilog="Example: convsvc executors --all")
@click.option("--all", "gone", is_flag=True, help="Also those that ended, or went silent, within a day.")
@service_options
@json_option
def executors(gone: bool, service: Service, as_json: bool) -> None:
    """List who takes jobs from the queue: engine, machines, version, and the job each one works on."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        found = client.executors(gone=gone)
    if as_json:
        print_json(found)
        return
    if not found:
        say("no executor is alive: start one with `convsvc executor`; --all shows those that were", err=True)
    head = ("NAME", "STATE", "ENGINE", "TASKS", "HOSTS", "VERSION", "UP", "HEARD", "JOBS")
    print_table(head, [_row(one) for one in found])
    for one in found:
        if one.away:
            say(f"{one.name}: for {between(one.away_since)}: {one.away}")


@click.command(epilog="Example: convsvc nodes --json")
@service_options
@json_option
def nodes(service: Service, as_json: bool) -> None:
    """List the machines on which tasks run. An executor opens its engine with its first job: before that it has none."""
    from convsvc.cli.connection import connect

    with connect(service) as client:
        found = client.nodes()
    if as_json:
        print_json(found)
        return
    if not found:
        say("no engine is open: an executor opens its own with its first job (`convsvc executors`)", err=True)
    rows = [(n.host, n.engine, n.slots, ",".join(n.versions) or "-", _some(n.executors), _some(n.jobs), n.id) for n in found]
    print_table(("HOST", "ENGINE", "TASKS", "VERSION", "EXECUTORS", "JOBS", "ID"), rows)


def _row(one: ExecutorView) -> tuple[object, ...]:
    hosts = sorted({str(node["host"]) for node in one.nodes}) or [one.host]
    more = [f"{one.other_jobs} of other tenants"] if one.other_jobs else []
    slots = "-" if one.slots is None else one.slots
    heard = "left" if one.left_at else between(one.heartbeat_at)
    up = between(one.started_at, one.left_at)
    return one.name, one.state, one.engine, slots, _some(hosts), one.version or "-", up, heard, _some([*one.jobs, *more])


def _some(names: list[str]) -> str:
    shown = names[:MOST_NAMED]
    return ",".join([*shown, *([f"+{len(names) - len(shown)}"] if len(names) > len(shown) else [])]) or "-"
