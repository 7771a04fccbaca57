"""What the drop-in commands of the source tools have in common: flags become a job, which runs here or on the service."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from convsvc.errors import ConvsvcError, JobError, TargetError


def guarded(command: str, run: Callable[[], int]) -> int:
    """What `run` returns; or 2 after one line on stderr, 0 after help, 130 when interrupted."""
    try:
        return run()
    except HelpShown:
        return 0
    except ConvsvcError as error:
        print(f"{command}: error: {' '.join(error.one_line().split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130


def run_here(job: dict[str, Any], workers: int = 1, as_json: bool = False) -> int:
    """Run the job in this process, or with several workers in processes of their own: no server. `as_json`: what came of it, on stdout."""
    from convsvc.conversion import convert

    result = convert(job, engine="inline") if workers == 1 else convert(job, engine="process", workers=workers)
    for note in result.notes:
        print(note, file=sys.stderr)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2))
        return 0
    print(f"converted {job['source']['path']} to {result.target}: {result.bytes_written} bytes in {result.seconds:.1f} s")
    return 0


def make_parents(target: str) -> None:
    """The directories that the target is to lie in. Raises TargetError where they cannot be made."""
    parent = os.path.dirname(os.path.abspath(target))
    try:
        os.makedirs(parent, exist_ok=True)
    except OSError as error:
        raise TargetError(f"{parent}, for {target}, cannot be made: {error.strerror}", do="choose another target") from None


def submit(job: dict[str, Any], url: str) -> int:
    """Run the job on the service at `url` and wait for it. Paths are made absolute: the service has another working directory."""
    from convsvc.cli.connection import connect
    from convsvc.cli.options import Service
    from convsvc.cli.watch import follow_job

    for place in ("source", "target"):
        for key, value in job[place].items():
            if isinstance(value, str) and (key == "path" or key.endswith(("_path", "_dir"))):
                job[place][key] = os.path.abspath(value)
    with connect(Service(url)) as client:
        job_id = client.submit(job).id
        print(f"submitted {job_id}", flush=True)
        follow_job(client, job_id)
    return 0


def given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


class HelpShown(Exception):
    """`--help` was answered; not an error."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises instead of ending the process: one line, no usage text before it."""

    def error(self, message: str) -> NoReturn:
        raise JobError(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown


def size(text: str) -> int:
    return at_least(1, text)


def count(text: str) -> int:
    return at_least(0, text)


def at_least(smallest: int, text: str) -> int:
    if not text.strip().isdecimal() or int(text) < smallest:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {smallest}")
    return int(text)


def numbers(text: str) -> list[int]:
    return [at_least(0, part) for part in text.split(",")]
