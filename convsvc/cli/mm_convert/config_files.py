"""What is wrong with configuration files: jsonargparse names no key that a file has and no argument is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from convsvc.cli.mm_convert.converters import CFG, CONVERTERS, Command
from convsvc.errors import JobError

SHOWN = 12
WHOLE = "--config"
HELP = {"-h", "--help"}


def unknown_keys(argv: Sequence[str]) -> JobError | None:
    """The error for the keys of the files on a command line that are no arguments; None where there are none, or no files."""
    command = _command(argv)
    faults = [fault for flag, path in _files(argv) if command for fault in _faults(command, flag, path)]
    return JobError("; ".join(faults)) if faults else None


def refused(argv: Sequence[str]) -> JobError | None:
    """The error for a command that there is none of here, whatever its arguments are; None for another, and where help is asked for."""
    said = asked(argv)
    if said is None or HELP & set(argv):
        return None
    converter, name, command = said
    return JobError(f"{converter} {name} is not converted", do=command.refused) if command.job is None else None


def asked(argv: Sequence[str]) -> tuple[str, str, Command] | None:
    """The converter, the sub-command and what that is; None where a command line names none."""
    at = next((at for at, word in enumerate(argv) if word in CONVERTERS), None)
    if at is None:
        return None
    commands = CONVERTERS[argv[at]].commands
    name = next((word for word in argv[at + 1 :] if word in commands), "")
    return (argv[at], name, commands[name]) if name in commands else None


def _command(argv: Sequence[str]) -> Command | None:
    said = asked(argv)
    return said[2] if said else None


def _files(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag that may take a file, with what it takes."""
    for at, word in enumerate(argv):
        flag, is_one, value = word.partition("=")
        if flag in (WHOLE, f"--{CFG}"):
            yield flag, value if is_one else "".join(argv[at + 1 : at + 2])


def _faults(command: Command, flag: str, path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            said = yaml.safe_load(file)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        yield f"{path}{line}: {error.problem}"
        return
    except (OSError, ValueError, yaml.YAMLError):
        return
    if flag == WHOLE and command.nested and isinstance(said, Mapping):
        others = [key for key in said if key not in (CFG, "submit")]
        yield from (f"{path}: {key}: there is no such key; there is {CFG}" for key in others)
        said = said.get(CFG)
    yield from (f"{path}: {fault}" for fault in _unknown(command.takes, said, f"{CFG}." if command.nested else ""))


def _unknown(takes: type[BaseModel], said: Any, before: str) -> Iterator[str]:
    if not isinstance(said, Mapping):
        return
    fields = takes.model_fields
    for key, value in said.items():
        if key in fields:
            yield from _unknown(inside, value, f"{before}{key}.") if (inside := _model_in(fields[key].annotation)) else ()
        elif before or key != "submit":
            yield f"{before}{key}: there is no such key; there are {', '.join(list(fields)[:SHOWN])}"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The configuration that a field is, or may be."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
