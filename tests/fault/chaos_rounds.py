"""Rounds of three jobs each on Ray and PostgreSQL, one to three things killed in each: python -m tests.fault.chaos_rounds

    --rounds 30 --minutes 25 --seed 1 --sqlite

Killed are workers, nodes, raylets (also the one beside the executor), the head with all its nodes, executors (SIGKILL, SIGTERM), the API.
It ends after so many rounds or minutes, at the end of a round, with a line of JSON: what was killed, how the jobs ended. The status
is 1 unless every job succeeded with the bytes of a plain conversion and nothing was left beside a target.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.fault.checkpoints import Case, left_beside, make_case, make_cases
from tests.fault.fleet import ENDED, Fleet, fleet, until

JOBS = 3
KINDS = ("worker", "node", "raylet", "head", "executor", "executor_term", "api")
# A round ends, or something hangs: then it is said which jobs have not ended, and why.
ROUND_S = 240.0


class Rounds:
    """Runs rounds on a fleet. `counts` says what was done."""

    def __init__(self, made: Fleet, cases: list[Case], targets: Path, seed: int) -> None:
        self._fleet, self._cases, self._targets = made, cases, targets
        self._random = random.Random(seed)
        self._kinds: list[str] = []
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def run_one(self, number: int) -> None:
        """Three jobs, and one to three kills while they run; all is checked."""
        chosen = [(self._random.choice(self._cases), self._targets / f"{number}-{n}") for n in range(JOBS)]
        ids = [self._fleet.api.submit(case.job(target), f"round-{number}-{n}") for n, (case, target) in enumerate(chosen)]
        for _ in range(self._random.randint(1, 3)):
            time.sleep(self._random.uniform(0.0, 2.5))
            self.kill(self._next_kind())
        for job, (case, target) in zip(self._end(ids), chosen, strict=True):
            self.counts[f"jobs {job['state']}"] += 1
            if job["state"] != "succeeded":
                self.failed.append(f"round {number}: {job['error'] or job['state']}")
                continue
            self.counts["files right to the bit"] += case.check(target)
        left = left_beside(self._targets)
        if left:
            self.failed.append(f"round {number} left {left}")
        self._restore()
        self.counts["rounds"] += 1

    def kill(self, kind: str) -> None:
        """One thing of this kind, as it is."""
        self.counts[f"killed: {kind}"] += 1
        getattr(self, f"_{kind}")()

    def _next_kind(self) -> str:
        """In a drawn order, every kind before any comes again."""
        if not self._kinds:
            self._kinds = self._random.sample(KINDS, len(KINDS))
        return self._kinds.pop()

    def _worker(self) -> None:
        victims = self._fleet.nodes.workers()
        if victims:
            with suppress(psutil.NoSuchProcess):
                self._random.choice(victims).kill()

    def _node(self) -> None:
        others = [number for number in self._fleet.nodes.state["raylets"] if number != "0"]
        if others:
            self._fleet.nodes.tell(f"remove {self._random.choice(others)}")
            self._fleet.nodes.tell("add")

    def _raylet(self) -> None:
        """The head's, which is the one beside the executor."""
        with suppress(ProcessLookupError):
            os.kill(self._fleet.nodes.state["raylets"]["0"], signal.SIGKILL)

    def _head(self) -> None:
        self._fleet.nodes.lose_head()

    def _executor(self) -> None:
        self._fleet.kill_executor()

    def _executor_term(self) -> None:
        self._fleet.kill_executor(signal.SIGTERM)

    def _api(self) -> None:
        self._fleet.api.kill()
        self._fleet.api.start()

    def _restore(self) -> None:
        """A raylet of the head that was killed comes back only with another head; in life its pod does."""
        pid = self._fleet.nodes.state["raylets"]["0"]
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            self._fleet.nodes.lose_head()

    def _end(self, ids: list[str]) -> list[dict[str, Any]]:
        def ended() -> list[dict[str, Any]] | None:
            found = [self._fleet.api.get(f"/jobs/{job}") for job in ids]
            return found if all(job and job["state"] in ENDED for job in found) else None

        try:
            return until(ended, "all jobs to end", ROUND_S)
        except AssertionError:
            return [self._fleet.api.get(f"/jobs/{job}") or {"state": "unknown", "error": None} for job in ids]


@contextmanager
def job_store(sqlite: bool) -> Iterator[str | None]:
    """The URL of a PostgreSQL database of our own; None for SQLite."""
    if sqlite:
        yield None
        return
    from tests.service.postgres_server import binaries, cluster

    bin_dir = binaries()
    if bin_dir is None:
        raise SystemExit("there is no PostgreSQL server on this machine: --sqlite")
    with cluster(bin_dir) as server:
        yield server.url.replace("postgresql:", "postgresql+psycopg:")


def run_rounds(rounds: int, minutes: float, seed: int, *, sqlite: bool = False, kinds_of_jobs: int = 8) -> Rounds:
    """So many rounds, or as many as begin within so many minutes; says after each what was done so far."""
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cvsc-")))
        url = stack.enter_context(job_store(sqlite))
        cases = make_cases(folder / "checkpoints") if kinds_of_jobs > 1 else [make_case(folder / "checkpoints", layers=8)]
        for name in ("targets", "service"):
            (folder / name).mkdir()
        made = stack.enter_context(fleet(folder / "service", database_url=url))
        found = Rounds(made, cases, folder / "targets", seed)
        for number in range(rounds):
            if time.monotonic() - began > 60 * minutes:
                break
            found.run_one(number)
            print(json.dumps({"seconds": round(time.monotonic() - began), **found.counts, "failed": found.failed}), flush=True)
        if found.failed:
            print((folder / "service" / "executor.log").read_text()[-20000:], file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sqlite", action="store_true")
    args = parser.parse_args()
    return 1 if run_rounds(args.rounds, args.minutes, args.seed, sqlite=args.sqlite).failed else 0


if __name__ == "__main__":
    sys.exit(main())
