"""What is there: `inspect` a checkpoint, list the `families`."""

from __future__ import annotations

import os

import click

from convsvc.cli.options import json_option, print_fields, print_json, print_table
from convsvc.errors import SourceError


@click.command(epilog="Example: convsvc inspect /shared/hf/Qwen3-8B")
@click.argument("path")
@json_option
def inspect(path: str, as_json: bool) -> None:
    """Say what the checkpoint at PATH is: format, family, sizes, layers, tensors, bytes, what is missing. Reads headers only."""
    from convsvc.plan.inspect import inspect_checkpoint

    if not os.path.exists(path):
        raise SourceError(f"{path}: there is no such file or directory")
    found = inspect_checkpoint(path)
    if as_json:
        print_json(found)
    else:
        print_fields(found)


@click.command(epilog="Example: convsvc families --json")
@json_option
def families(as_json: bool) -> None:
    """List the model families that can be converted."""
    from convsvc.families import FAMILIES

    if as_json:
        print_json([{"name": name, "title": family.title} for name, family in FAMILIES.items()])
    else:
        print_table(("NAME", "TITLE"), [(name, family.title) for name, family in FAMILIES.items()])
