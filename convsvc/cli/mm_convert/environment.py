"""Environment variables that are arguments: jsonargparse reads those that it knows, and says nothing of others."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from convsvc.cli.mm_convert.config_files import HELP, asked
from convsvc.cli.mm_convert.converters import CFG, CONVERTERS, Command
from convsvc.errors import JobError

PREFIX, BETWEEN, SWITCH = "MM_CONVERT_", "__", "JSONARGPARSE_DEFAULT_ENV"
# What every command takes, and what chooses one.
EVERYWHERE = ("CONFIG", "SUBMIT", "COMMAND")


def unknown_variables(argv: Sequence[str], environment: Mapping[str, str]) -> JobError | None:
    """The error for variables that look like arguments of the command that is asked for, or of no converter at all; None without any."""
    said = asked(argv)
    if said is None or HELP & set(argv):
        return None
    known = set(_names(*said))
    mine = f"{PREFIX}{said[0].upper()}{BETWEEN}"
    faults = [
        f"{name}: there is no such argument{_meant(name, known)}"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known and (name.startswith(mine) or not _is_of_a_converter(name))
        if not _is_of_another_command(name, said[0], said[1])
    ]
    return JobError("; ".join(faults), do="unset or correct it: it would be left out") if faults else None


def unread(argv: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """A word about variables that nobody reads, as the switch is not set; None without any."""
    said = asked(argv)
    names = sorted(set(_names(*said)) & environment.keys()) if said else []
    return f"advice: {', '.join(names)}: not read, for {SWITCH} is not true" if names else None


def _names(converter: str, name: str, command: Command) -> Iterator[str]:
    before = f"{PREFIX}{converter.upper()}{BETWEEN}"
    yield from (f"{before}{each.upper()}" for each in (*EVERYWHERE, *CONVERTERS[converter].arguments))
    yield f"{PREFIX}CONVERTER"
    inside = f"{before}{name.upper()}{BETWEEN}" if name else before
    yield from (f"{inside}{each}" for each in EVERYWHERE)
    if command.nested:
        yield f"{inside}{CFG.upper()}"
        yield from _fields(command.takes, f"{inside}{CFG.upper()}{BETWEEN}")
    else:
        yield from _fields(command.takes, inside)
    yield from _fields(command.beside, inside) if command.beside else ()


def _fields(takes: type[BaseModel], before: str) -> Iterator[str]:
    for name, field in takes.model_fields.items():
        yield f"{before}{name.upper()}"
        for kind in (field.annotation, *get_args(field.annotation)):
            if _is_config(kind):
                yield from _fields(kind, f"{before}{name.upper()}{BETWEEN}")


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_of_a_converter(name: str) -> bool:
    return any(name.startswith(f"{PREFIX}{each.upper()}{BETWEEN}") for each in CONVERTERS)


def _is_of_another_command(name: str, converter: str, command: str) -> bool:
    """Whether a variable belongs to another of the converter's commands, which a shell may hold for later."""
    before = f"{PREFIX}{converter.upper()}{BETWEEN}"
    others = (each for each in CONVERTERS[converter].commands if each and each != command)
    return any(name.startswith(f"{before}{each.upper()}{BETWEEN}") for each in others)


def _meant(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"; there is {near[0]}" if near else ""
