"""The `convsvc` command: which commands there are, and how every error looks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from convsvc.cli.lazy import LazyCommand, LazyGroup
from convsvc.errors import ConvsvcError

DEBUG = "CONVSVC_DEBUG"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

COMMANDS = {
    "convert": LazyCommand("convsvc.cli.local:convert", "Run a job here, without a server."),
    "plan": LazyCommand("convsvc.cli.local:plan", "Say what a job would do, and do nothing."),
    "verify": LazyCommand("convsvc.cli.verify:verify", "Whether a target is what a job writes, or two checkpoints the same model."),
    "inspect": LazyCommand("convsvc.cli.inspect:inspect", "Say what a checkpoint is and what it lacks."),
    "serve": LazyCommand("convsvc.cli.serve:serve", "Run the service: its API and its executor."),
    "executor": LazyCommand("convsvc.cli.serve:executor", "Run an executor alone, for a service started with --no-executor."),
    "submit": LazyCommand("convsvc.cli.submit:submit", "Send a job to the service."),
    "jobs": LazyCommand("convsvc.cli.jobs:jobs", "List the service's jobs (also: ps)."),
    "status": LazyCommand("convsvc.cli.status:status", "Show one job: why, when, how far, what next (also: inspect-job)."),
    "watch": LazyCommand("convsvc.cli.watch:watch", "Show a job's progress until it ends; exit as it ended."),
    "logs": LazyCommand("convsvc.cli.jobs:logs", "Print a job's log."),
    "wait": LazyCommand("convsvc.cli.jobs:wait", "Wait until a job ends; exit as it ended."),
    "cancel": LazyCommand("convsvc.cli.jobs:cancel", "Ask a job to stop."),
    "retry": LazyCommand("convsvc.cli.jobs:retry", "Run a failed or canceled job again."),
    "watch-dir": LazyCommand("convsvc.cli.watch_dir:watch_dir", "Convert a training run's iterations as they appear."),
    "watches": LazyCommand("convsvc.cli.watch_dir:watches", "List, show and remove watches of training runs."),
    "batches": LazyCommand("convsvc.cli.batch:batches", "List, show, await and cancel batches of jobs."),
    "executors": LazyCommand("convsvc.cli.cluster:executors", "List who takes jobs from the queue."),
    "whoami": LazyCommand("convsvc.cli.whoami:whoami", "Say who the token is, and what it may."),
    "nodes": LazyCommand("convsvc.cli.cluster:nodes", "List the machines on which tasks run."),
    "check-storage": LazyCommand("convsvc.cli.check_storage:check_storage", "Try whether a directory does for conversions."),
    "mindformers": LazyCommand("convsvc.cli.mindformers:command", "The commands of MindSpore Transformers' converters."),
    "token": LazyCommand("convsvc.cli.token:token", "Make, list and revoke tokens."),
    "tenant": LazyCommand("convsvc.cli.tenant:tenant", "Make, list, change and remove tenants."),
    "audit": LazyCommand("convsvc.cli.audit:audit", "List who did what."),
    "purge": LazyCommand("convsvc.cli.purge:purge", "Forget jobs that ended long ago."),
    "staged": LazyCommand("convsvc.cli.staged:staged", "List what unfinished jobs have staged, and remove it."),
    "completion": LazyCommand("convsvc.cli.completing:completion", "Print what a shell needs to complete commands and job ids."),
    "families": LazyCommand("convsvc.cli.inspect:families", "List the model families."),
    "version": LazyCommand("convsvc.cli.version:version", "Print the version."),
}

ALIASES = {"ps": "jobs", "inspect-job": "status"}
EXIT_STATUS = """\b
Exit status:
  0  done
  2  the job, the command line or the address is wrong
  3  the source is not what it should be, or does not match the target
  4  the target cannot be written
  5  reading or writing failed; trying again may help
  6  what was written is not what should have been written
  7  canceled
  8  the service refused or did not answer"""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    aliases=ALIASES,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Example: convsvc convert job.json\n\n{EXIT_STATUS}",
)
@click.option("--debug", is_flag=True, help=f"Show a traceback with every error (also {DEBUG}=1).")
def cli(debug: bool) -> None:
    """Convert checkpoints of large models from one layout into another, here or on a service."""
    if debug:
        os.environ[DEBUG] = "1"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; an error becomes text on stderr, made from its message, facts and `do`."""
    try:
        status = cli.main(args=None if argv is None else list(argv), prog_name="convsvc", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("convsvc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the reader of the pipe has gone (`| head`); nothing to tell it
        return 0
    except Exception as error:
        return report(error)


def report(error: Exception) -> int:
    """Print the error for a person and return the exit status that belongs to it."""
    if os.environ.get(DEBUG) == "1":
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ConvsvcError):
        print(f"convsvc: {error.title}: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, OSError):
        print(f"convsvc: {error}", file=sys.stderr)
        return 5
    print(
        f"convsvc: internal error: {type(error).__name__}: {error}\n  do: run it again with {DEBUG}=1 and report it",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
