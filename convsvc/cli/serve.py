"""`convsvc serve` and `convsvc executor`: the two processes of the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from convsvc.cli.options import database_option, memory_option
from convsvc.cli.terminal import say

Function = TypeVar("Function", bound=Callable[..., Any])


def engine_options(function: Function) -> Function:
    """Where the jobs are, and where their tasks run."""
    for decorate in reversed(
        (
            database_option,
            click.option(
                "--engine",
                type=click.Choice(["ray", "process", "inline"]),
                default="ray",
                show_default=True,
                help="Where tasks run.",
            ),
            click.option("--workers", type=click.IntRange(1), metavar="N", help="Tasks at once (default: what the engine finds)."),
            click.option(
                "--ray-address",
                envvar="CONVSVC_RAY_ADDRESS",
                metavar="HOST:PORT",
                help="A running Ray cluster (default: a local one).",
            ),
            click.option(
                "--autoscaling",
                is_flag=True,
                envvar="CONVSVC_AUTOSCALING",
                help="Hand more tasks to Ray than it has CPUs, so that its autoscaler sees a need ($CONVSVC_AUTOSCALING=1).",
            ),
            memory_option,
            click.option(
                "--concurrency",
                envvar="CONVSVC_CONCURRENCY",
                type=click.IntRange(1, 64),
                default=1,
                show_default=True,
                help="Jobs at once ($CONVSVC_CONCURRENCY).",
            ),
            click.option(
                "--task-timeout-s",
                envvar="CONVSVC_TASK_TIMEOUT_S",
                type=click.FloatRange(1),
                default=3600.0,
                show_default=True,
                help="A task that takes longer is tried again ($CONVSVC_TASK_TIMEOUT_S).",
            ),
            click.option(
                "--deadline-s",
                envvar="CONVSVC_DEADLINE_S",
                type=click.FloatRange(1),
                help="A job whose run takes longer fails ($CONVSVC_DEADLINE_S; default: none).",
            ),
            click.option(
                "--log-format",
                envvar="CONVSVC_LOG_FORMAT",
                type=click.Choice(["text", "json"]),
                default="text",
                show_default=True,
                help="How each line of the log on stderr looks.",
            ),
        )
    ):
        function = decorate(function)
    return function


@click.command(epilog="Example: convsvc serve --port 8765 --engine process")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@engine_options
@click.option("--no-executor", is_flag=True, help="The API only; run `convsvc executor` elsewhere.")
def serve(**settings: Any) -> int | None:
    """Run the service: the HTTP API and, as a process of its own, the executor."""
    from convsvc.service.serve import serve as run

    return run(**settings)


@click.command(epilog="Example: convsvc executor --database-url sqlite:////var/lib/convsvc/convsvc.db --engine process")
@engine_options
@click.option("--check", is_flag=True, help="Start nothing: say whether the executor that runs beside this lives (exit code 0, or 1).")
def executor(check: bool, **settings: Any) -> int | None:
    """Run an executor: it takes queued jobs from the job store and drives them.

    It is a child of this process, which starts it again when it ends and kills it when it hangs. Its pulse is the file
    $CONVSVC_PULSE_FILE (default: executor.pulse beside the default job store): `--check` looks how old that is, and asks nobody else, so it
    is what a container's liveness probe runs.
    """
    if check:
        return _check_pulse()
    from convsvc.service.executor.supervised import run_supervised as run

    return run(**settings)


def _check_pulse() -> int:
    from convsvc.service.executor.pulse import STALE_S, pulse_age_s, pulse_file

    age_s = pulse_age_s(pulse_file())
    if age_s is None:
        say(f"no executor has a pulse in {pulse_file()}")
    else:
        say(
            f"the executor was heard {age_s:.0f} s ago" + (f": more than {STALE_S:.0f} s, it hangs or has ended" if age_s > STALE_S else "")
        )
    return int(age_s is None or age_s > STALE_S)
