"""Ray goes from under the executor: its raylet is killed, its head is away. No job fails of it, and none waits longer than it must."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.fault.checkpoints import Case, make_case
from tests.fault.fleet import ENDED, RayNodes, fault_environment, until
from tests.fault.services import Service, service


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("checkpoints"), layers=12)


def raylet_of(service: Service) -> psutil.Process | None:
    """The raylet that the executor has started beside itself."""
    try:
        children = psutil.Process(service.supervisor.pid).children(recursive=True)
        return next((child for child in children if child.name() == "raylet"), None)
    except psutil.NoSuchProcess:
        return None


def test_four_jobs_succeed_although_the_raylet_beside_the_executor_is_killed(case: Case, tmp_path: Path) -> None:
    environment = fault_environment(f"sqlite:///{tmp_path}/jobs.db")
    with service(tmp_path, environment, "--workers", "2") as made:
        jobs = made.submit(case, 4)
        until(lambda: made.state(jobs[0]) in {"running", *ENDED}, "the first job to run", 120)
        victim = until(lambda: raylet_of(made), "the raylet")
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: "LocalRayletDiedError" in (made.api.get("/readyz") or {}).get("executor", ""), "readyz to say why", 60)
        made.check(made.end(jobs, 180), case)


def test_no_claim_is_lost_to_a_head_that_is_away_at_the_start_and_in_the_middle(case: Case, tmp_path: Path) -> None:
    environment = fault_environment(f"sqlite:///{tmp_path}/jobs.db")
    with ExitStack() as stack:
        nodes = RayNodes(environment, 2)
        stack.callback(nodes.close)
        nodes.stop()
        made = stack.enter_context(service(tmp_path, environment, "--ray-address", nodes.address))
        jobs = made.submit(case, 2)
        until(lambda: "did not start or answer" in made.log.read_text(), "the executor to find no head", 60)
        until(lambda: nodes.address in (made.api.get("/readyz") or {}).get("executor", ""), "readyz to say why", 60)
        assert {made.state(job) for job in jobs} <= {"queued", "planning"}
        for _ in range(2):  # a rollout, or somebody who restarts what does not work: no stop costs a claim
            pid = made.supervisor.pid
            os.kill(pid, signal.SIGTERM)
            until(lambda gone=pid: made.supervisor.pid != gone, "another executor", 60)
            until(lambda: made.state(jobs[0]) in {"planning", "queued"}, "the job")
            time.sleep(1)
        nodes.start()
        until(lambda: made.state(jobs[0]) in {"running", *ENDED}, "the first job to run", 120)
        os.kill(nodes.state["head"], signal.SIGKILL)
        nodes.stop()
        time.sleep(6)
        nodes.start()
        made.check(made.end(jobs, 240), case)
        assert "died" not in made.log.read_text()
        assert max(made.claims(job) for job in jobs) <= 2, "what waits for an engine loses no claim"
