"""Every command line that the delivery files and the README name is one that the real programs take."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from convsvc.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[2]
# Words of the documents that stand for something of the reader's.
VARIABLE = re.compile(r"\$\{?[A-Za-z_]+\}?|<[^>]+>")

SHELL = ("", "sh", "shell", "console")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
PROGRAMS = ("convsvc ", "convert-ckpt-v2 ", "ray ")


def compose_commands() -> Iterator[list[str]]:
    defaults = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "deploy/compose.yaml").read_text())
    for service in yaml.safe_load(defaults)["services"].values():
        words = [*service.get("entrypoint", ["convsvc"]), *service.get("command", [])]
        if "command" in service:
            yield words
        yield service["healthcheck"]["test"][1:]


def kuberay_commands() -> Iterator[list[str]]:
    for file in (ROOT / "deploy/kuberay").glob("*.yaml"):
        for manifest in yaml.safe_load_all(file.read_text()):
            if manifest["kind"] in ("Deployment", "Job"):
                for container in manifest["spec"]["template"]["spec"]["containers"]:
                    yield [*container.get("command", ["convsvc"]), *container["args"]]
                    yield from (container[probe]["exec"]["command"] for probe in PROBES if "exec" in container.get(probe, {}))


def systemd_commands() -> Iterator[list[str]]:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # keys of a unit are case-sensitive
    unit.read(ROOT / "deploy/systemd/convsvc.service")
    yield shlex.split(unit["Service"]["ExecStart"])


def dockerfile_commands() -> Iterator[list[str]]:
    text = (ROOT / "Dockerfile").read_text()
    entry, command = (json.loads(found) for found in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])", text, flags=re.MULTILINE))
    yield [*entry, *command]


def documented_commands() -> Iterator[list[str]]:
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), flags=re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines() if language in SHELL else ():
                if line.removeprefix("$ ").startswith(PROGRAMS):
                    yield shlex.split(VARIABLE.sub("x", line.removeprefix("$ ")), comments=True)


def programs() -> list[list[str]]:
    """All of them, cut at &&, |, ; and &, as the program's name and its arguments."""
    found = []
    for words in [*compose_commands(), *kuberay_commands(), *systemd_commands(), *dockerfile_commands(), *documented_commands()]:
        script = shlex.split(words[2]) if words[:2] == ["sh", "-c"] else words
        for part in (
            " ".join(shlex.quote(word) for word in script)
            .replace("'&&'", "\0")
            .replace("'|'", "\0")
            .replace("';'", "\0")
            .replace("'&'", "\0")
            .split("\0")
        ):
            command = [word for word in shlex.split(part) if word not in ("exec", "while", "do", "done")]
            if command:
                found.append([Path(command[0]).name, *command[1:]])
    return found


def parse(group: click.Group, args: list[str]) -> Any:
    command = group.get_command(click.Context(group), args[0])
    assert command is not None, f"there is no command {args[0]}"
    try:
        return command.make_context(args[0], list(args[1:]))
    except click.exceptions.Exit:
        return None
    except click.BadParameter as wrong:
        if "does not exist" in wrong.message:  # a directory of the reader's
            return None
        raise


OURS = [command for command in programs() if command[0] == "convsvc"]
RAYS = [command for command in programs() if command[0] == "ray"]
DROP_INS = [command for command in programs() if command[0] == "convert-ckpt-v2"]


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_the_cli_takes_every_convsvc_command_line(command: list[str]) -> None:
    parse(cli, command[1:])


@pytest.mark.parametrize("command", RAYS, ids=" ".join)
def test_ray_takes_every_ray_command_line(command: list[str]) -> None:
    # In a process of its own: Ray reads its environment once, when it is imported, and other tests start Ray with settings of theirs.
    script = "import json, sys; from ray.scripts.scripts import cli; from tests.deploy.test_command_lines import parse; "
    script += "parse(cli, json.loads(sys.argv[1]))"
    run = [sys.executable, "-c", script, json.dumps(command[1:])]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", DROP_INS, ids=" ".join)
def test_the_drop_in_takes_every_command_line_of_its(command: list[str]) -> None:
    from convsvc.cli.convert_ckpt_v2 import job_of

    job_of(command[1:])


def scripts() -> list[str]:
    return [words[2] for words in [*compose_commands(), *kuberay_commands()] if words[:2] == ["sh", "-c"]]


@pytest.mark.parametrize("script", scripts(), ids=["compose", "kuberay"])
def test_a_shell_takes_every_script_whose_last_word_becomes_its_process(script: str) -> None:
    """SIGTERM must reach the executor: it takes the shell's place."""
    done = subprocess.run(["sh", "-n", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"& exec convsvc executor [^&;|]*$", " ".join(script.split()))


def test_the_delivery_files_start_the_api_and_the_executor() -> None:
    assert {"serve", "executor", "check-storage"} <= {command[1] for command in OURS} <= set(COMMANDS)
    assert len(RAYS) >= 5
    assert DROP_INS
