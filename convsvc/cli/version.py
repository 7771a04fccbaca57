"""`convsvc version`."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from convsvc.cli.options import json_option, print_json
from convsvc.cli.terminal import say


@click.command(epilog="Example: convsvc version --json")
@json_option
def version(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        print_json({"convsvc": metadata.version("convsvc"), "python": platform.python_version()})
    else:
        say(f"convsvc {metadata.version('convsvc')}")
