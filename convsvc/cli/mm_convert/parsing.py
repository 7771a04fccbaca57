"""The command line of mm-convert: jsonargparse, as MindSpeed-MM has it: configurations, environment variables, help at three levels."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from pydantic import BaseModel, ValidationError

from convsvc.cli.drop_in import HelpShown
from convsvc.cli.mm_convert import configs
from convsvc.cli.mm_convert.config_files import refused, unknown_keys
from convsvc.cli.mm_convert.converters import CFG, CONVERTERS, Command, Converter
from convsvc.cli.mm_convert.environment import SWITCH, unknown_variables
from convsvc.errors import JobError

PROGRAM = "mm-convert"
OWN = ("config", "submit", CFG)
_URL = re.compile(r"\s*For further information visit \S+")
_KEY = re.compile(r'Parser key "([^"]+)":?\s*')
_WORDS = (
    (re.compile(r"\d+ validation errors? for \S+\s*|\s*\[type=\w+[^\]]*\]"), ""),
    (re.compile(r"Expected a <class '(\w+)'>\.? Got value: (.*)"), r"is of type \1, and not \2"),
    (re.compile(r"(?<= )(?:\w+Converter\.\w+|moe_expert)\.(?=[a-z])"), "--"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks for: the sub-command, what it takes, the converter's own arguments, and the service if there is one."""

    converter: str
    name: str
    command: Command
    config: BaseModel
    arguments: Mapping[str, Any]
    submit: str | None


def parse(argv: Sequence[str]) -> Asked:
    """What `argv` and, if JSONARGPARSE_DEFAULT_ENV is true, the environment say.

    Raises JobError in one line for what is wrong, HelpShown after help or a printed configuration.
    """
    wrong = refused(argv) or (unknown_variables(argv, os.environ) if _env() else None)
    if wrong is not None:
        raise wrong
    try:
        with warnings.catch_warnings(action="ignore"):
            parsed = build(argv).parse_args(list(argv))
    except SystemExit as end:
        if end.code in (0, None):
            raise HelpShown from None
        raise JobError(str(end.code)) from None
    except (argparse.ArgumentError, TypeError, ValueError, KeyError) as error:
        raise unknown_keys(argv) or JobError(in_words(error)) from None
    return _asked(parsed)


def build(argv: Sequence[str]) -> ArgumentParser:
    """The parser of all converters; those that `argv` does not name have no commands, as it takes time to make them."""
    parser = ArgumentParser(
        prog=PROGRAM,
        exit_on_error=False,
        default_env=_env(),
        description="Convert checkpoints of MindSpeed-MM: Hugging Face, rank files, torch distributed checkpoints.",
        epilog="Example: mm-convert GenericDCPConverter hf_to_dcp --hf_dir /hf/Qwen3-VL-8B --dcp_dir /dcp --dcp_prefix model. "
        "See also: mm-convert CONVERTER -h, mm-convert CONVERTER COMMAND -h.",
    )
    converters = parser.add_subcommands(required=True, dest="converter", metavar="CONVERTER", title="converters", description="one of")
    for name, converter in CONVERTERS.items():
        own = _parser(f"{converter.words}.", f"Example: mm-convert {name} {next(iter(converter.commands)) or '--style merge'} -h")
        for argument, choices in converter.arguments.items():
            own.add_argument(f"--{argument}", choices=choices, help=f"which model: {', '.join(choices)}")
        converters.add_subcommand(name, own, help=converter.words)
        if name in argv:
            _add_commands(own, name, converter)
    return parser


def _add_commands(parser: ArgumentParser, name: str, converter: Converter) -> None:
    if "" in converter.commands:
        _add_arguments(parser, converter.commands[""])
        return
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND", title="commands", description="one of")
    for sub, command in converter.commands.items():
        own = _parser(f"{command.words[0].upper()}{command.words[1:]}: {converter.words}.", _example(name, sub, command))
        _add_arguments(own, command)
        commands.add_subcommand(sub, own, help=command.words)


def _add_arguments(parser: ArgumentParser, command: Command) -> None:
    parser.add_argument("--config", action="config", help="a YAML or JSON file with these arguments; several are merged, the later wins")
    parser.add_argument("--submit", metavar="URL", type=str | None, default=None, help="run on the convsvc service at URL instead of here")
    if command.nested:
        parser.add_class_arguments(command.takes, CFG)
        if command.beside is not None:
            parser.add_class_arguments(command.beside)
    elif command.takes.model_fields:
        parser.add_class_arguments(command.takes)

    for group in parser._action_groups:  # jsonargparse gives groups of a class's arguments the class's own name
        if group.title and group.title.startswith("<class"):
            group.title = _words_of(group.title)


def _words_of(title: str) -> str:
    """The first line of what a configuration says of itself."""
    kind = getattr(configs, title.rpartition(".")[2].rstrip("'>"), None)
    return (kind.__doc__ or "arguments").split("\n")[0].rstrip(".") if kind else "arguments"


def _parser(description: str, epilog: str) -> ArgumentParser:
    return ArgumentParser(exit_on_error=False, default_env=_env(), description=description, epilog=epilog)


def _env() -> bool:
    return os.environ.get(SWITCH, "").lower() == "true"


def _example(name: str, sub: str, command: Command) -> str:
    flags = examples(command.takes, f"{CFG}." if command.nested else "")
    return f"Example: mm-convert {name} {sub} {' '.join(flags)}".rstrip()


def examples(takes: type[BaseModel], before: str) -> list[str]:
    """The flags that are needed, with a value each."""
    flags: list[str] = []
    for name, field in takes.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            flags += examples(kind, f"{before}{name}.") if field.is_required() else []
        elif field.is_required():
            flags.append(f"--{before}{name} {_SAMPLES.get(name, '/' + name.removesuffix('_dir'))}")
    return flags


_SAMPLES = {"llm_pp_layers": "[[1,10,10,7]]", "lora_target_modules": "q_proj"}


def _asked(parsed: Namespace) -> Asked:
    converter = parsed["converter"]
    own = parsed[converter]
    sub = own.get("command") or ""
    command = CONVERTERS[converter].commands[sub]
    leaf = own[sub] if sub else own
    arguments = {name: own.get(name) for name in CONVERTERS[converter].arguments}
    arguments |= {name: leaf.get(name) for name in (command.beside.model_fields if command.beside else ())}
    said = leaf.get(CFG) if command.nested else Namespace({key: value for key, value in vars(leaf).items() if key not in OWN})
    values = _plain(said.as_dict() if isinstance(said, Namespace) else said or {})
    try:
        config = command.takes.model_validate(values)
    except ValidationError as error:
        faults = [f"--{_dotted(command, item['loc'])}: {_lower(item['msg'])}" for item in error.errors(include_url=False)]
        raise JobError("; ".join(faults)) from None
    return Asked(converter, sub, command, config, arguments, leaf.get("submit"))


def _plain(value: Any) -> Any:
    """Without what jsonargparse adds of its own."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key != "__path__"}
    return value


def _dotted(command: Command, loc: Sequence[Any]) -> str:
    return ".".join([*([CFG] if command.nested else []), *[str(part) for part in loc if not str(part).startswith("list[")]])


def _lower(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def in_words(error: Exception) -> str:
    """One line of what jsonargparse and pydantic say, less what only a programmer wants to know."""
    text = " ".join(_URL.sub("", str(error)).split())
    text = _KEY.sub(lambda match: f"--{match[1]}: ", text)
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    return " ".join(text.split())
