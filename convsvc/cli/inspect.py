"""What is there: `inspect` a checkpoint, list the `families`."""

from __future__ import annotations

import os
from typing import Any

import click

from convsvc.cli.html import html_option, write_page
from convsvc.cli.options import Service, json_option, print_fields, print_json, print_table, service_options
from convsvc.errors import SourceError


@click.command(epilog="Example: convsvc inspect /shared/hf/Qwen3-8B --on-service")
@click.argument("path")
@click.option("--on-service", is_flag=True, help="Let the service look: PATH is its machines'. For who has the storage not mounted.")
@click.option("--draft-family", is_flag=True, help="Print the first text of a family file instead, for an architecture that is not known.")
@html_option
@service_options
@json_option
def inspect(path: str, on_service: bool, draft_family: bool, html: str | None, service: Service, as_json: bool) -> None:
    """Say what the checkpoint at PATH is: format, family, sizes, layers, tensors, bytes, what is missing. Reads headers only.

    With --html: a picture of it, which file has which layers and which part of each tensor.
    """
    if html is not None:
        _draw(path, html, on_service or as_json)
        return
    if draft_family:
        click.echo(_draft(path, on_service or as_json))
        return
    found = _look_there(path, service) if on_service else _look_here(path)
    if as_json:
        print_json(found)
    else:
        print_fields(found)


def _look_there(path: str, service: Service) -> dict[str, Any]:
    from convsvc.cli.connection import connect

    with connect(service) as client:
        return client.inspect(path)


def _draft(path: str, otherwise: bool) -> str:
    from convsvc.plan.drafting import draft_of

    if otherwise:
        raise click.UsageError("--draft-family prints a Python file and looks here: it goes with neither --on-service nor --json")
    if not os.path.exists(path):
        raise SourceError(f"{path}: there is no such file or directory")
    return draft_of(path)


def _draw(path: str, html: str, otherwise: bool) -> None:
    from convsvc.pictures.of_checkpoint import picture_of_checkpoint

    if otherwise:
        raise click.UsageError("--html looks here: it goes with neither --on-service nor --json")
    write_page(html, picture_of_checkpoint(path))


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
    """List the model families, and the formats that have a place for each; --json: its encodings, MTP, LoRA, who has judged it, too."""
    found = _known_there(service) if on_service else _known_here()
    if as_json:
        print_json(found)
    else:
        print_table(("NAME", "TITLE", "PLACES", "MTP", "JUDGED BY"), [_line(family) for family in found])


def _line(family: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """A family's line; a service of an older version says less."""
    places = [name for name, ways in family.get("formats", {}).items() if ways]
    return family["name"], family["title"], " ".join(places), "yes" if family.get("mtp") else "", " ".join(family.get("judged_by", ()))


def _known_there(service: Service) -> list[dict[str, Any]]:
    from convsvc.cli.connection import connect

    with connect(service) as client:
        return client.families()


def _known_here() -> list[dict[str, Any]]:
    from convsvc.dialects.family_matrix import matrix

    return matrix()
