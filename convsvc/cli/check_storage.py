"""`convsvc check-storage`: whether a directory does for conversions, from this machine and from every machine of a cluster."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convsvc.cli.options import json_option, print_json
from convsvc.cli.terminal import say

if TYPE_CHECKING:
    from convsvc.engine.storage_check import Report


@click.command("check-storage", epilog="Example: convsvc check-storage . --from-every-node --ray-address head:6379")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--from-every-node", is_flag=True, help="Also from every machine of the Ray cluster.")
@click.option("--ray-address", envvar="RAY_ADDRESS", help="The cluster ($RAY_ADDRESS; default: the one that runs on this machine).")
@click.option("--size-mib", type=click.IntRange(0, 1 << 16), default=64, show_default=True, help="How much is written to measure speed.")
@json_option
def check_storage(directory: Path, from_every_node: bool, ray_address: str | None, size_mib: int, as_json: bool) -> int:
    """Try what a conversion asks of DIRECTORY's file system: locks, direct I/O, renames, pages two writers share, owner, room, speed.

    Everything is tried in a hidden directory in it, which is removed. The status is 5 if something is bad: then conversions would fail
    there, or several machines would spoil one another's files. What is "slower" or "missing" convsvc goes without.
    """
    from convsvc.engine import make_engine
    from convsvc.engine.storage_check import check_storage

    engine = make_engine("ray", ray_address=ray_address or "auto") if from_every_node else make_engine("process", workers=1)
    with closing(engine):
        reports = check_storage(directory.resolve(), engine, size_mib << 20)
    good = all(report.is_good for report in reports)
    if as_json:
        print_json({"directory": str(directory.resolve()), "good": good, "machines": [report.as_dict() for report in reports]})
    else:
        for report in reports:
            _print(report)
        say("this directory does for conversions" if good else "this directory does not do: see what is bad")
    return 0 if good else 5


def _print(report: Report) -> None:
    say(f"{report.machine} ({report.worker})" if report.worker else report.machine)
    for finding in report.findings:
        say(f"  {finding.result:<8}{finding.trial:<22}{finding.text}")
        if finding.do and finding.result != "ok":
            say(f"{'':32}do: {finding.do}")
