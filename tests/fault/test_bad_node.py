"""One of three Ray nodes cannot work: it does not see the storage, or cannot write to it. The others do all, and the node is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fault.checkpoints import Case, make_case
from tests.fault.fleet import CONVSVC, RayNodes, fault_environment, until
from tests.fault.services import Service, service

RAY = str(Path(sys.executable).with_name("ray"))
# In a mount namespace of its own, under a host name of its own. It has more CPUs than the others together: most tasks go there first.
BAD_NODE = 'mount --make-rprivate / && hostname bad-node && {mount} && exec "$@"'
MOUNTS = {"hidden": "mount -t tmpfs none {folder}", "read-only": "mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"}


def missing() -> str | None:
    """Why there can be no mounts of a node's own here."""
    if os.geteuid() != 0:
        return "only root can make mount namespaces"
    tried = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, text=True, check=False)
    return f"mount namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else None


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("checkpoints"), layers=12)


@pytest.fixture
def cluster() -> Iterator[tuple[dict[str, str], RayNodes]]:
    why = missing()
    if why:
        pytest.skip(why)
    environment = fault_environment("")
    nodes = RayNodes(environment, 2)
    yield environment, nodes
    nodes.close()


def add_bad_node(nodes: RayNodes, environment: dict[str, str], folder: Path, how: str, stack: ExitStack) -> None:
    """A node for which `folder` is hidden or read-only."""
    mount = BAD_NODE.format(mount=MOUNTS[how].format(folder=folder))
    start = [RAY, "start", "--block", "--address", nodes.address, "--num-cpus", "4", "--object-store-memory", str(80 << 20)]
    log = stack.enter_context((Path(nodes.folder) / "bad.log").open("w"))
    command = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", mount, "sh", *start]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    stack.callback(process.wait, 30)
    stack.callback(process.kill)
    until(lambda: "Ray runtime started" in (Path(nodes.folder) / "bad.log").read_text(), "the bad node", 90)


def named(made: Service, job: str) -> str:
    """What the job's log says of what failed."""
    return "\n".join(line["message"] for line in made.api.get(f"/jobs/{job}/logs") if line["level"] in {"warning", "error"})


@pytest.mark.parametrize("how", ["hidden", "read-only"])
def test_a_node_that_cannot_work_is_named_and_the_others_do_its_work(
    case: Case, tmp_path: Path, cluster: tuple[dict[str, str], RayNodes], how: str
) -> None:
    environment, nodes = cluster
    environment["CONVSVC_DATABASE_URL"] = f"sqlite:///{tmp_path}/jobs.db"
    (tmp_path / "targets").mkdir()
    with ExitStack() as stack:
        add_bad_node(nodes, environment, tmp_path / "targets", how, stack)
        made = stack.enter_context(service(tmp_path, environment, "--ray-address", nodes.address))
        jobs = made.submit(case, 4)
        made.check(made.end(jobs, 240), case)
        failures = [named(made, job) for job in jobs]
        assert any("ray-bad-node-" in text for text in failures), failures
        attempts = [attempt for job in jobs for attempt in made.attempts(job)]
        assert [attempt for attempt in attempts if attempt["worker"] is None] == []
        failed = [attempt for attempt in attempts if attempt["outcome"] == "failed"]
        assert failed
        assert all(attempt["worker"].startswith("ray-bad-node-") for attempt in failed), failed
        assert all("bad-node" not in attempt["worker"] for attempt in attempts if attempt["outcome"] == "done")
        check_names_it(tmp_path / "targets", nodes, environment)


def check_names_it(folder: Path, nodes: RayNodes, environment: dict[str, str]) -> None:
    """`check-storage --from-every-node` finds the same, before any job does."""
    command = [CONVSVC, "check-storage", str(folder), "--from-every-node", "--ray-address", nodes.address, "--size-mib", "4", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 5, done.stderr
    machines = json.loads(done.stdout)["machines"]
    assert len(machines) == 4, "this process, two good nodes, a bad one"
    bad = [machine for machine in machines if not machine["good"]]
    assert len(bad) == 1, json.dumps(bad)
    assert "bad-node" in f"{bad[0]['machine']} {bad[0]['worker']} {bad[0]['findings']}"
