"""What is there: `inspect` a checkpoint, list the `families`."""

from __future__ import annotations

import os
from typing import Any

import click

from convsvc.cli.options import Service, json_option, print_fields, print_json, print_table, service_options
from convsvc.errors import SourceError


@click.command(epilog="Example: convsvc inspect /shared/hf/Qwen3-8B --on-service")
@click.argument("path")
@click.option("--on-service", is_flag=True, help="Let the service look: PATH is its machines'. For who has the storage not mounted.")
@service_options
@json_option
def inspect(path: str, on_service: bool, service: Service, as_json: bool) -> None:
    """Say what the checkpoint at PATH is: format, family, sizes, layers, tensors, bytes, what is missing. Reads headers only."""
    found = _look_there(path, service) if on_service else _look_here(path)
    if as_json:
        print_json(found)
    else:
        print_fields(found)


def _look_there(path: str, service: Service) -> dict[str, Any]:
    from convsvc.cli.connection import connect

    with connect(service) as client:
        return client.inspect(path)


def _look_here(path: str) -> dict[str, Any]:
    from convsvc.plan.inspect import inspect_checkpoint

    if not os.path.exists(path):
        raise SourceError(f"{path}: there is no such file or directory")
    return inspect_checkpoint(path)


@click.command(epilog="Example: convsvc families --json")
@click.option("--on-service", is_flag=True, help="Ask the service, which may be of another version.")
@service_options
@json_option
def families(on_service: bool, service: Service, as_json: bool) -> None:
    """List the model families that can be converted."""
    found = _known_there(service) if on_service else _known_here()
    if as_json:
        print_json(found)
    else:
        print_table(("NAME", "TITLE"), [(family["name"], family["title"]) for family in found])


def _known_there(service: Service) -> list[dict[str, Any]]:
    from convsvc.cli.connection import connect

    with connect(service) as client:
        return client.families()


def _known_here() -> list[dict[str, Any]]:
    from convsvc.families import FAMILIES

    return [{"name": name, "title": family.title} for name, family in FAMILIES.items()]
