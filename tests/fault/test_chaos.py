"""Everything is killed while jobs run; every job succeeds, with the bytes that a plain conversion gives."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.fault.chaos_rounds import run_rounds
from tests.fault.checkpoints import Case, left_beside, make_cases
from tests.fault.fleet import ENDED, Fleet, fleet, until
from tests.service.postgres_server import binaries


@dataclass
class Chaos:
    """Kills things of a fleet, at moments when tasks are being done, in an order that the seed gives."""

    fleet: Fleet
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def worker(self) -> None:
        victims = until(self.fleet.nodes.workers, "a worker that is busy")
        try:
            self.random.choice(victims).kill()
            self.counts["workers killed"] += 1
        except psutil.NoSuchProcess:  # its node went
            pass

    def node(self) -> None:
        others = [number for number in self.fleet.nodes.state["raylets"] if number != "0"]
        self.fleet.nodes.tell(f"remove {self.random.choice(others)}")
        self.counts["nodes removed"] += 1

    def executor(self) -> None:
        self.fleet.kill_executor()
        self.counts["executors killed"] += 1

    def api(self) -> None:
        self.fleet.api.kill()
        self.fleet.api.start()
        self.counts["APIs killed"] += 1

    def head(self) -> None:
        self.fleet.nodes.lose_head()
        self.counts["heads killed"] += 1


def run_chaos(folder: Path, *, jobs: int, seed: int, within_s: float, **kills: int) -> Counter[str]:
    """Runs so many jobs while so many of each kind are killed; says what was done. All is checked."""
    began = time.monotonic()
    rng = random.Random(seed)
    cases = make_cases(folder / "checkpoints")
    targets = folder / "targets"
    targets.mkdir()
    (folder / "service").mkdir()
    chosen = [(cases[number % len(cases)], targets / f"{number}") for number in range(jobs)]
    with fleet(folder / "service") as made:
        chaos = Chaos(made, rng)
        submitting = threading.Thread(target=_submit, args=(made, chosen))
        submitting.start()
        fates: list[Callable[[], None]] = [getattr(chaos, kind) for kind, times in kills.items() for _ in range(times)]
        rng.shuffle(fates)
        for number, fate in enumerate(fates, 1):
            enough = jobs * number // (len(fates) + 1)  # so that the fates come evenly over the run
            until(lambda count=enough: _done(targets) >= count, f"{enough} jobs to be done", within_s)
            fate()
        submitting.join()
        found = until(lambda: _all_ended(made, jobs), "all jobs to end", within_s)
        _check(found, chosen, targets, made)
        chaos.counts += Counter(job["state"] for job in found)
        chaos.counts["files right to the bit"] = sum(case.check(target) for case, target in chosen)
        chaos.counts["tasks done"] = sum(job["progress"]["tasks_total"] for job in found)
        chaos.counts += _history(folder / "service" / "jobs.db")
        chaos.counts["seconds"] = round(time.monotonic() - began)
    print(f"\nchaos, seed {seed}: {dict(chaos.counts)}")
    return chaos.counts


def _submit(made: Fleet, chosen: list[tuple[Case, Path]]) -> None:
    for number, (case, target) in enumerate(chosen):
        made.api.submit(case.job(target), f"chaos-{number}")


def _done(targets: Path) -> int:
    return sum(not path.name.startswith(".") for path in targets.iterdir())


def _all_ended(made: Fleet, count: int) -> list[dict[str, Any]] | None:
    jobs = made.api.jobs()
    return jobs if len(jobs) >= count and all(job["state"] in ENDED for job in jobs) else None


def _history(database: Path) -> Counter[str]:
    """What the job store remembers of the trouble."""
    with closing(sqlite3.connect(database)) as store:
        data = [json.loads(row[0]) for row in store.execute("SELECT data FROM events WHERE kind IN ('task', 'state')")]
    again = Counter("tasks tried again" for each in data if each.get("will_retry"))
    return again + Counter("jobs taken up again" for each in data if each.get("event") in {"reclaim", "release"})


def _check(jobs: list[dict[str, Any]], chosen: list[tuple[Case, Path]], targets: Path, made: Fleet) -> None:
    assert [(job["name"], job["error"]) for job in jobs if job["state"] != "succeeded"] == []
    assert sorted(job["target"] for job in jobs) == sorted(str(target) for _, target in chosen), "a job was lost, or is there twice"
    assert left_beside(targets) == []


def test_thirty_two_jobs_survive_what_a_bad_week_brings(tmp_path: Path) -> None:
    counts = run_chaos(tmp_path, jobs=32, seed=5, within_s=500, worker=12, node=1, executor=2, api=2)
    assert counts["succeeded"] == 32


def test_jobs_survive_the_loss_of_the_head_with_all_its_nodes(tmp_path: Path) -> None:
    counts = run_chaos(tmp_path, jobs=4, seed=4, within_s=240, head=1)
    assert counts["succeeded"] == 4


def test_rounds_of_jobs_survive_whatever_is_killed_in_them_raylets_included() -> None:
    """Two rounds of those that `python -m tests.fault.chaos_rounds` runs by the dozen, on PostgreSQL."""
    found = run_rounds(2, 5, seed=3, sqlite=binaries() is None, kinds_of_jobs=1)
    assert (found.failed, found.counts["jobs succeeded"]) == ([], 6)
