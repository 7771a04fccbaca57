"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from convsvc.cli.terminal import say, shown
from convsvc.units import in_bytes

DEFAULT_URL = "http://127.0.0.1:8765"
MEMORY_LIMIT = "CONVSVC_MEMORY_LIMIT"
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Service:
    """Which service a command talks to, and where our token is; without a file it is $CONVSVC_TOKEN."""

    url: str
    token_file: str | None = None
    allow_insecure: bool = False


def service_options(function: Function) -> Function:
    """The options of every command that talks to the service: they arrive as one argument, `service`.

    There is none for the token itself: everybody on a machine sees what a command was started with.
    """

    @wraps(function)
    def with_service(url: str, token_file: str | None, allow_insecure: bool, **given: Any) -> Any:
        return function(service=Service(url, token_file, allow_insecure), **given)

    file = click.Path(exists=True, dir_okay=False, allow_dash=False)
    trusted = "Send the token over plain http to another machine, on a network that is trusted ($CONVSVC_ALLOW_INSECURE=1)."
    decorated: Any = with_service
    for decorate in (
        click.option("--allow-insecure", is_flag=True, help=trusted),
        click.option("--token-file", type=file, metavar="FILE", help="A file with the token (default: $CONVSVC_TOKEN)."),
        click.option("--url", envvar="CONVSVC_URL", default=DEFAULT_URL, show_default=True, help="The service ($CONVSVC_URL)."),
    ):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]  # click's decorators give back what they were given


def json_option(function: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def database_option(function: Function) -> Function:
    text = "SQLAlchemy URL of the job store ($CONVSVC_DATABASE_URL; default: SQLite)."
    return click.option("--database-url", envvar="CONVSVC_DATABASE_URL", callback=_without_password, help=text)(function)


def _without_password(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Everybody on a machine sees what a command was started with; its environment only its user does."""
    source = context.get_parameter_source(str(parameter.name))
    if value and source is click.core.ParameterSource.COMMANDLINE and re.search(r"://[^/?#@]*:[^/?#@]+@|[?&;]password=", value):
        raise click.UsageError("the database's URL has a password in it, and `ps` shows command lines: give it by CONVSVC_DATABASE_URL")
    return value


def memory_option(function: Function) -> Function:
    text = f"Start no job for which a worker may need more memory than this, e.g. 512MiB (${MEMORY_LIMIT})."
    option = click.option("--memory-limit", "memory_limit_bytes", envvar=MEMORY_LIMIT, metavar="SIZE", callback=_checked_size, help=text)
    return option(function)


def parse_size(text: str) -> int:
    """A number of bytes as people write it. Raises ValueError.

    >>> parse_size("512MiB"), parse_size("2GB"), parse_size("4096")
    (536870912, 2000000000, 4096)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGT])(i?))?B?", text)
    if match is None:
        raise ValueError(f"{text!r} is no size; write bytes, or for example 512MiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ("KMGT".index(match[2]) + 1 if match[2] else 0))


def _checked_size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def print_json(value: Any) -> None:
    """Print a value, or a view of the client's, as JSON; times as ISO 8601."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = [asdict(item) if is_dataclass(item) and not isinstance(item, type) else item for item in value]
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    say(json.dumps(value, indent=2, default=plain))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print left-aligned columns; plain text, so that it can be cut and grepped."""
    cells = [[shown(str(cell), lines=False) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: dict[str, Any], indent: str = "") -> None:
    """Print a nested dict a line a value; what is None or empty is left out."""
    width = max((len(str(name)) for name in fields), default=0)
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            say(f"{indent}{name}")
            print_fields({key: in_bytes(item) if _counts_bytes(str(name), item) else item for key, item in value.items()}, indent + "  ")
        elif isinstance(value, list | tuple) and any(isinstance(item, str) and " " in item for item in value):
            say(f"{indent}{name}")
            for item in value:
                say(f"{indent}  {item}")
        elif isinstance(value, list) and value and all(isinstance(item, dict) and item.keys() == {"kind", "text"} for item in value):
            say(f"{indent}{name}")
            for item in value:
                say(f"{indent}  {item['kind']}: {item['text']}")
        elif value is not None and value not in ({}, [], ()):
            say(f"{indent}{str(name).ljust(width)}  {_shown(str(name), value)}")


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _counts_bytes(name, value):
        return in_bytes(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def _counts_bytes(name: str, value: Any) -> bool:
    return "bytes" in name and isinstance(value, int) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """What `json.dumps` asks for a value that JSON has not."""
    return (
        value.isoformat()
        if hasattr(value, "isoformat")
        else asdict(value)
        if is_dataclass(value) and not isinstance(value, type)
        else str(value)
    )
