"""An API and an executor under the real supervisor, and jobs that are submitted to them and looked at."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from convsvc.service.executor.supervisor import Supervisor
from tests.fault.checkpoints import Case, left_beside
from tests.fault.fleet import ENDED, EXECUTOR_SCRIPT, Api, until

LEASE_S = 4


class Service:
    """An API and a supervised executor with its log."""

    def __init__(self, folder: Path, environment: dict[str, str], *words: str) -> None:
        self.targets, self.log = folder / "targets", folder / "executor.log"
        self.targets.mkdir(exist_ok=True)
        self.log.touch()
        self._database = folder / "jobs.db"
        self.api = Api(environment, folder / "api.log")
        command = [sys.executable, EXECUTOR_SCRIPT, str(self.log), "--engine", "ray", *words]
        self.supervisor = Supervisor([*command, "--lease-s", str(LEASE_S), "--parent", str(os.getpid())], environment)

    def submit(self, case: Case, count: int) -> list[str]:
        return [self.api.submit(case.job(self.targets / str(number)), f"gone-{number}") for number in range(count)]

    def state(self, job: str) -> str:
        return str(until(lambda: self.api.get(f"/jobs/{job}"), "the job")["state"])

    def attempts(self, job: str) -> list[dict[str, Any]]:
        """Every attempt at the job's tasks, as the job store has it."""
        with closing(sqlite3.connect(self._database)) as store:
            store.row_factory = sqlite3.Row
            return [dict(row) for row in store.execute("SELECT * FROM attempts WHERE job_id = ?", [job])]

    def claims(self, job: str) -> int:
        """How often executors took up the job and may have died of it."""
        with closing(sqlite3.connect(self._database)) as store:
            return int(store.execute("SELECT claims FROM jobs WHERE id = ?", [job]).fetchone()[0])

    def end(self, jobs: list[str], within_s: float) -> list[dict[str, Any]]:
        """All jobs, ended."""

        def ended() -> list[dict[str, Any]] | None:
            found = [self.api.get(f"/jobs/{job}") for job in jobs]
            return found if all(job and job["state"] in ENDED for job in found) else None

        try:
            return until(ended, "all jobs to end", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-4000:]}") from None

    def check(self, jobs: list[dict[str, Any]], case: Case) -> None:
        assert [(job["state"], job["error"]) for job in jobs] == [("succeeded", None)] * len(jobs), self.log.read_text()[-4000:]
        for job in jobs:
            case.check(Path(job["target"]))
        assert left_beside(self.targets) == []


@contextmanager
def service(folder: Path, environment: dict[str, str], *words: str) -> Iterator[Service]:
    with ExitStack() as stack:
        made = Service(folder, environment, *words)
        made.api.start()
        stack.callback(made.api.kill)
        made.supervisor.start()
        stack.callback(made.supervisor.stop)
        yield made
