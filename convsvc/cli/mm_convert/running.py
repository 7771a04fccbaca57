"""From what is asked to a job, and its run: here or on the service."""

from __future__ import annotations

from typing import Any

from convsvc.cli.drop_in import make_parents, run_here, submit
from convsvc.cli.mm_convert import sora_jobs
from convsvc.cli.mm_convert.parsing import Asked
from convsvc.cli.terminal import say
from convsvc.errors import JobError


def run(asked: Asked) -> int:
    job = job_from(asked)
    if asked.submit:
        sent = sora_jobs.for_service(job)
        if sent is not job:
            say(f"the service leaves a directory, in which the file is: {sent['target']['path']}/{sora_jobs.FILE}", err=True)
        return submit(sent, asked.submit)
    sora_jobs.check_place(job)
    make_parents(job["target"]["path"])
    code = run_here(job)
    if code == 0:
        sora_jobs.put_in_place(job)
    return code


def job_from(asked: Asked) -> dict[str, Any]:
    """Raises JobError for a direction that makes no sense or does not exist, saying what to use."""
    command = asked.command
    if command.job is None:
        raise JobError(f"{asked.converter} {asked.name} is not converted", do=command.refused)
    return command.job(asked.config, asked.arguments)
