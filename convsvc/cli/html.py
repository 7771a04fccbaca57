"""`--html OUT`: the picture of a checkpoint or a plan, as a file."""

from __future__ import annotations

import os
from typing import Any

import click

from convsvc.cli.terminal import say
from convsvc.errors import TargetError
from convsvc.units import in_bytes

html_option = click.option(
    "--html", metavar="OUT", help="Write a picture instead, e.g. --html picture.html: one file, which needs no network."
)


def write_page(path: str, picture: dict[str, Any]) -> None:
    """Writes the picture's page, in one step. Raises TargetError where it cannot be written."""
    from convsvc.pictures.page import render_page

    text = render_page(picture).encode("utf-8", "backslashreplace")
    temporary = f"{path}.{os.getpid()}.part"
    try:
        with open(temporary, "xb") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror}", do="choose another place for the picture") from error
    say(f"wrote {path}: {in_bytes(len(text))}")
