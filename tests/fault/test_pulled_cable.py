"""A head and two workers as hosts of their own; a worker's cable is pulled for 30 s while a job runs, and the job completes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fault.checkpoints import Case, left_beside, make_cases
from tests.fault.fleet import fault_environment, until
from tests.fault.hosts import Host, hosts, missing

PULLED_S = 30.0
HERE = Path(__file__).parent
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def network() -> Iterator[list[Host]]:
    why = missing()
    if why:
        pytest.skip(why)
    with hosts(3) as made:
        yield made


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_cases(tmp_path_factory.mktemp("checkpoints"), layers=12)[2]


class Cluster:
    """Ray's head on the first host, with no CPU for tasks, and a node with one on each other."""

    def __init__(self, network: list[Host], stack: ExitStack) -> None:
        self.head, *self.others = network
        self._stack = stack
        self.folder = Path(tempfile.mkdtemp(prefix="cvs-", dir="/tmp"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        python = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        # The lines of ENVIRONMENT on every host, as the documentation says; Ray's own default for a head that is gone.
        self.environment = {**fault_environment("sqlite://"), "PYTHONPATH": python, "RAY_gcs_rpc_server_reconnect_timeout_s": "60"}
        self.log = stack.enter_context((self.folder / "ray.log").open("w"))
        self.address = f"{self.head.address}:6379"
        self._ray(self.head, "--head", "--port", "6379", "--num-cpus", "0", "--temp-dir", str(self.folder), "--include-dashboard", "false")
        self._wait_for(1)
        # One after the other, as they have one machine's processors between them.
        for number, host in enumerate(self.others, 2):
            self._ray(host, "--address", self.address, "--num-cpus", "1")
            self._wait_for(number)

    def _ray(self, host: Host, *words: str) -> None:
        size = str(80 << 20)
        command = [RAY, "start", "--block", "--node-ip-address", host.address, "--object-store-memory", size, *words]
        # A node gives up after half a minute if its machine has too much to do: it is told again.
        again = ["sh", "-c", 'for try in 1 2 3; do "$@" && exit; sleep 1; done', "sh", *command]
        process = host.start(*again, env=self.environment, stdout=self.log, stderr=subprocess.STDOUT)
        self._stack.callback(process.wait, 60)
        self._stack.callback(host.end_all)

    def _wait_for(self, count: int) -> None:
        try:
            until(lambda: self._said().count("Ray runtime started") >= count, f"{count} nodes", 200)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._said()[-3000:]}") from None

    def _said(self) -> str:
        return (self.folder / "ray.log").read_text()

    def run(self, case: Case, target: Path, after_tasks: int, then: Any) -> dict[str, Any]:
        """Runs a job on the head's host; `then` is called, in a thread, once so many tasks are done."""
        (self.folder / "job.json").write_text(json.dumps(case.job(target, verify="digest")))
        command = [sys.executable, str(HERE / "paced_job.py"), self.address, str(self.folder / "job.json")]
        with self.head.start(*command, env=self.environment, stdout=subprocess.PIPE, stderr=self.log) as process:
            assert process.stdout is not None
            done, last = 0, ""
            for line in process.stdout:
                last = line
                done += line.endswith("done\n")
                if done == after_tasks and line.endswith("done\n"):
                    threading.Thread(target=then).start()
            assert process.wait() == 0, self._said()[-3000:]
        case.check(target)
        return dict(json.loads(last))


def workers(told: dict[str, Any], since: float = 0, until: float = float("inf")) -> set[str]:
    """Which workers were heard of to have done a task in that time."""
    return {worker for at, worker in told["done"] if since <= at < until}


def test_a_job_completes_although_a_workers_cable_is_pulled_for_half_a_minute(network: list[Host], case: Case, tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = Cluster(network, stack)
        undisturbed = cluster.run(case, tmp_path / "undisturbed", 4, lambda: None)
        assert (len(workers(undisturbed)), undisturbed["failed"]) == (2, [])
        plugged_in = threading.Event()
        times: list[float] = []

        def pull() -> None:
            cluster.others[0].pull_cable()
            times.append(time.monotonic())
            time.sleep(PULLED_S)
            times.append(time.monotonic())
            cluster.others[0].plug_in_cable()
            plugged_in.set()

        disturbed = cluster.run(case, tmp_path / "disturbed", 4, pull)
        assert plugged_in.wait(PULLED_S + 10)
        delay_s = disturbed["seconds"] - undisturbed["seconds"]
        print(f"\nundisturbed {undisturbed['seconds']:.1f} s, with a cable pulled for {PULLED_S:g} s {disturbed['seconds']:.1f} s,")
        print(f"a delay of {delay_s:.1f} s; {disturbed['retried']} of {disturbed['tasks']} tasks tried again: {disturbed['failed']}")
        print([(round(at - times[0], 1), worker) for at, worker in disturbed["done"]])
        assert len(workers(disturbed, until=times[0])) == 2
        assert len(workers(disturbed, since=times[0] + 1, until=times[1])) == 1, "the other one cannot be heard"
        assert delay_s < 60
        assert left_beside(tmp_path) == []
