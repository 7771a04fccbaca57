"""A training run saves iterations, dies, goes on; the API and the executor die and come back: each whole iteration is converted once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convsvc.client import Client
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.views import JobView
from tests.service.training_run import MegatronRun

SERVE = "from convsvc.service.serve import serve; serve(port=0, engine='inline', database_url={url!r}, no_executor=True)"
ITERATIONS = range(1, 9)
DIES_AT, NEVER_WHOLE = 5, 9


@contextmanager
def served(database_url: str) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    command = [sys.executable, "-c", SERVE.format(url=database_url)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127.0.0.1:\d+", process.stdout.readline())
            assert found
            with Client(found[0], timeout_s=30) as client:
                yield client, process
        finally:
            process.kill()


@contextmanager
def executing(database_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "convsvc.service.executor", "--engine", "inline", "--lease-s", "2"]
    with (
        log.open("a") as errors,
        subprocess.Popen(command, env={**os.environ, "CONVSVC_DATABASE_URL": database_url}, stderr=errors) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def train(run: MegatronRun, may_end: threading.Event) -> None:
    """Each iteration is half there for a moment. At one training dies, goes on from before, and saves that one anew."""
    for iteration in ITERATIONS:
        run.begin(iteration)
        time.sleep(0.2)
        if iteration == DIES_AT:
            run.track(iteration - 1)
            time.sleep(1)
        run.finish(iteration)
        time.sleep(0.3)
    run.begin(NEVER_WHOLE)
    may_end.set()


def test_every_whole_iteration_is_converted_once_whoever_dies_meanwhile(tmp_path: Path, database_url: str) -> None:
    run, out, ended = MegatronRun(tmp_path, tmp_path / "run"), tmp_path / "out", threading.Event()
    with served(database_url) as (client, _):
        watch = client.create_watch(run.watch(out, rest_s=0.1))
    database = Database(database_url)
    jobs = Jobs(Store(database))
    training = threading.Thread(target=train, args=(run, ended), daemon=True)
    with executing(database_url, tmp_path / "executor.log") as first:
        training.start()
        until(lambda: jobs.by_state()["succeeded"] >= 1, "a first conversion")
        first.send_signal(signal.SIGKILL)
    with served(database_url) as (client, api), executing(database_url, tmp_path / "executor.log"):
        assert client.watch(watch.id).directory == str(run.directory)
        until(lambda: jobs.by_state()["succeeded"] >= 3, "conversions by another executor")
        api.send_signal(signal.SIGKILL)
        until(ended.is_set, "the run's end")
        until(lambda: len(jobs.all()) >= len(ITERATIONS) and set(jobs.by_state()) == {"succeeded"}, "all conversions")
    with served(database_url) as (client, _), executing(database_url, tmp_path / "executor.log") as last:
        looked = {client.watch(watch.id).looked_at}
        until(lambda: looked.add(client.watch(watch.id).looked_at) or len(looked) > 3, "looks of a third executor")
        seen = {one.iteration: (one.state, one.job_state) for one in client.iterations(watch.id)}
        last.send_signal(signal.SIGTERM)
        assert last.wait(60) == 0
    assert Counter(int(job.spec["source"]["iteration"]) for job in jobs.all()) == Counter(ITERATIONS)
    assert seen == dict.fromkeys(ITERATIONS, ("taken", "succeeded")) | {NEVER_WHOLE: ("moving", None)}
    assert sorted(int(path.name) for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")) == list(ITERATIONS)
    database.close()


class Jobs:
    """The jobs in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[JobView]:
        return self._store.jobs(limit=500).jobs

    def by_state(self) -> Counter[str]:
        return Counter(job.state for job in self.all())


def until(holds: Callable[[], Any], what: str, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {limit_s} s"
        time.sleep(0.1)
