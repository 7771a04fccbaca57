"""Shell completion: of job ids, asked of the service, and the command that prints what a shell needs for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from convsvc.cli.terminal import say, shown

Function = TypeVar("Function", bound=Callable[..., Any])
SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_CONVSVC_COMPLETE"
MOST, TIMEOUT_S = 100, 1.5


def job_argument(function: Function) -> Function:
    """The argument of commands about one job; a shell completes it from the newest jobs."""
    return click.argument("job_id", metavar="JOB", shell_complete=complete_job)(function)


def complete_job(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Jobs whose ids begin so, the newest first; none where the service does not say within a moment. Never raises."""
    try:
        from convsvc.client import Client

        given = context.params.get("url") or os.environ.get("CONVSVC_URL")
        token = _token(context.params.get("token_file"))
        with Client(given, token, timeout_s=TIMEOUT_S, retry_for_s=0.1) as client:
            jobs = client.jobs(limit=MOST).jobs
    except Exception:  # whatever it is, a shell that is completing has no place to say it
        return []
    fitting = [job for job in jobs if job.id.startswith(incomplete.lower())]
    return [CompletionItem(job.id, help=shown(f"{job.state} {job.name or job.target}", lines=False)) for job in fitting]


@click.command(epilog="Example: convsvc completion bash")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what a shell needs to complete commands, options and job ids.

    bash: eval "$(convsvc completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc;
    fish: convsvc completion fish > ~/.config/fish/completions/convsvc.fish
    """
    from convsvc.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    # Not click's `source`, which asks for the shell's version: this is printed on machines that have another one, too.
    made = kind(cli, {}, "convsvc", VARIABLE)
    say(made.source_template % made.source_vars())


def _token(path: str | None) -> str | None:
    if not path:
        return None
    with open(path, encoding="ascii") as file:
        return file.read().strip()
