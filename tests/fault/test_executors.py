"""Executors that hang, drain, are canceled, or lose the job store: real processes, the process engine, real conversions."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from convsvc.service.errors import IllegalTransition
from convsvc.service.executor.supervisor import Supervisor
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job
from tests.fault.checkpoints import Case, left_beside, make_cases
from tests.fault.fleet import EXECUTOR_SCRIPT, fault_environment, until

LEASE_S = 4.0


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A job of about a dozen tasks."""
    return make_cases(tmp_path_factory.mktemp("checkpoints"), layers=12)[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Database(url)) as database:
        database.migrate()
        yield Store(database)


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    folder = tmp_path / "targets"
    folder.mkdir()
    return folder


Start = Callable[..., Supervisor]


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts an executor under a supervisor; each writes on a slow disk if it is told to."""
    with ExitStack() as stack:

        def started(*, silence_s: float = 600.0) -> Supervisor:
            command = [sys.executable, EXECUTOR_SCRIPT, str(tmp_path / "executor.log"), "--engine", "process", "--workers", "1"]
            command += ["--lease-s", str(LEASE_S), "--parent", str(os.getpid())]
            supervisor = Supervisor(command, fault_environment(url), silence_s=silence_s)
            supervisor.start()
            stack.callback(supervisor.stop)
            return supervisor

        yield started


def submit(store: Store, case: Case, targets: Path) -> str:
    return store.submit(parse_job(case.job(targets / "target", verify="roundtrip")))[0].id


def in_mid_run(store: Store, job_id: str) -> Any:
    return until(lambda: (job := store.job(job_id)).progress.tasks_done >= 1 and job.state == "running" and job, "a task to be done", 120)


def ended(store: Store, job_id: str, within_s: float = 120) -> Any:
    return until(lambda: (job := store.job(job_id)).ended_at and job, "the job's end", within_s)


def check(store: Store, case: Case, targets: Path, job_id: str) -> None:
    job = ended(store, job_id)
    assert job.state == "succeeded", job.error
    case.check(targets / "target")
    assert left_beside(targets) == []


def said(store: Store, job_id: str) -> str:
    return "\n".join(line.message for line in store.logs(job_id))


def is_stopped(pid: int) -> bool:
    """Whether all its threads are: the signal has gone out, but a thread on another processor may run on for a moment."""
    states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(state == "T" for state in states)


@contextmanager
def stopped(pid: int, database: Path) -> Iterator[None]:
    """The process is stopped, but not within a transaction: SQLite has no way to take the lock on its file from it."""

    def caught() -> bool:
        os.kill(pid, signal.SIGSTOP)
        until(lambda: is_stopped(pid), "every thread to stand still")
        with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as other, suppress(sqlite3.OperationalError):
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    until(caught, "a moment without a transaction")
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_hung_executor_is_killed_by_its_supervisor_and_its_job_is_finished(store: Store, case: Case, targets: Path, start: Start) -> None:
    job_id = submit(store, case, targets)
    supervisor = start(silence_s=LEASE_S)
    in_mid_run(store, job_id)
    hung = supervisor.pid
    assert hung is not None
    with stopped(hung, targets.with_name("jobs.db")):
        began = time.monotonic()
        until(lambda: supervisor.pid != hung, "another executor", 60)
        print(f"\na hung executor was replaced after {time.monotonic() - began:.1f} s")
    check(store, case, targets, job_id)


def test_a_hung_executor_whose_supervisor_does_nothing_is_killed_by_its_successor_on_the_same_machine(
    store: Store, case: Case, targets: Path, start: Start
) -> None:
    job_id = submit(store, case, targets)
    first = start()
    in_mid_run(store, job_id)
    hung = first.pid
    assert hung is not None
    with stopped(hung, targets.with_name("jobs.db")):
        start()
        check(store, case, targets, job_id)
    assert "which had the job before, still holds its target: waiting for it to end" in said(store, job_id)
    assert f"process {hung} was silent and has been ended" in said(store, job_id)


@pytest.fixture
def container(url: str, tmp_path: Path) -> Iterator[Callable[[], list[psutil.Process]]]:
    """Starts an executor in a PID namespace of its own, as in a container, and says which processes it and its workers are."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no PID namespaces")
    with ExitStack() as stack:

        def started() -> list[psutil.Process]:
            command = [*unshare, "--kill-child", sys.executable, EXECUTOR_SCRIPT, str(tmp_path / "contained.log")]
            command += ["--engine", "process", "--workers", "1", "--lease-s", str(LEASE_S)]
            process = stack.enter_context(subprocess.Popen(command, env=fault_environment(url)))
            stack.callback(process.kill)
            (inside,) = until(lambda: psutil.Process(process.pid).children(), "the executor in its namespace")
            return [inside]

        yield started


def test_an_executor_that_hangs_in_another_container_delays_its_job_by_a_lease_and_some_seconds_and_changes_nothing_when_it_wakes(
    store: Store, case: Case, targets: Path, start: Start, container: Callable[[], list[psutil.Process]]
) -> None:
    job_id = submit(store, case, targets)
    (hung,) = container()
    in_mid_run(store, job_id)
    with stopped(hung.pid, targets.with_name("jobs.db")):
        start()
        check(store, case, targets, job_id)
        assert hung.is_running(), "nobody could end it"
        assert "is silent and out of reach: the target was taken from it" in said(store, job_id)
        before = {path: path.stat().st_mtime_ns for path in targets.rglob("*")}
    log = targets.with_name("contained.log")
    until(lambda: "is no longer held" in log.read_text(), "the hung executor to find its lease lost", 60)
    assert {path: path.stat().st_mtime_ns for path in targets.rglob("*")} == before
    case.check(targets / "target")


def test_a_cancel_of_a_job_whose_executor_hangs_in_another_container_gives_everything_back(
    store: Store, case: Case, targets: Path, start: Start, container: Callable[[], list[psutil.Process]]
) -> None:
    job_id = submit(store, case, targets)
    (hung,) = container()
    in_mid_run(store, job_id)
    with stopped(hung.pid, targets.with_name("jobs.db")):
        assert store.cancel(job_id).state == "canceling"
        start()
        assert ended(store, job_id).state == "canceled"
        assert list(targets.iterdir()) == []
    until(lambda: "is no longer held" in targets.with_name("contained.log").read_text(), "the hung executor to find its lease lost", 60)
    assert list(targets.iterdir()) == []


def test_an_executor_that_was_only_slow_finds_its_lease_lost_and_leaves_the_job_alone(
    store: Store, case: Case, targets: Path, start: Start
) -> None:
    job_id = submit(store, case, targets)
    first = start()
    in_mid_run(store, job_id)
    slow = first.pid
    assert slow is not None
    with stopped(slow, targets.with_name("jobs.db")):
        start()
        until(lambda: "waiting for it to end" in said(store, job_id), "a successor", 60)
    check(store, case, targets, job_id)
    assert first.pid == slow, "it gave the lock back before anybody had to end it"


def test_a_cancel_in_mid_run_gives_everything_back(store: Store, case: Case, targets: Path, start: Start) -> None:
    start()
    for _ in range(5):  # on a quick machine a job may be done before the cancel is heard: then another one
        job_id = submit(store, case, targets)
        in_mid_run(store, job_id)
        with suppress(IllegalTransition):
            for _ in range(3):
                assert store.cancel(job_id).state in ("canceling", "canceled")
        job = ended(store, job_id)
        if job.state != "succeeded":
            break
        for path in targets.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert (job.state, list(targets.iterdir())) == ("canceled", [])
    assert store.cancel(job_id).state == "canceled"


def test_a_job_canceled_while_its_executor_is_dead_is_cleaned_up_by_the_next_one(
    store: Store, case: Case, targets: Path, start: Start
) -> None:
    job_id = submit(store, case, targets)
    first = start()
    in_mid_run(store, job_id)
    assert first.pid is not None
    with stopped(first.pid, targets.with_name("jobs.db")):
        assert store.cancel(job_id).state == "canceling"
        start()
        assert ended(store, job_id).state == "canceled"
    assert list(targets.iterdir()) == []


def test_an_executor_that_is_asked_to_end_puts_its_job_back_and_the_next_one_goes_on_with_it(
    store: Store, case: Case, targets: Path, start: Start
) -> None:
    job_id = submit(store, case, targets)
    first = start()
    in_mid_run(store, job_id)
    began = time.monotonic()
    first.stop()
    print(f"\na drain took {time.monotonic() - began:.1f} s")
    job = store.job(job_id)
    assert (job.state, job.executor) == ("queued", None)
    assert left_beside(targets) == [".target.convsvc"]
    start()
    check(store, case, targets, job_id)
    result = store.job(job_id).result
    assert result is not None
    assert result["tasks"]["skipped"] >= 1


def test_a_job_that_waits_after_a_drain_can_be_canceled_and_leaves_nothing(store: Store, case: Case, targets: Path, start: Start) -> None:
    job_id = submit(store, case, targets)
    first = start()
    in_mid_run(store, job_id)
    first.stop()
    assert store.cancel(job_id).state == "canceling"
    start()
    assert ended(store, job_id).state == "canceled"
    assert list(targets.iterdir()) == []


@pytest.mark.parametrize(("away_s", "runs"), [(LEASE_S / 2, 1), (LEASE_S * 2.5, 2)], ids=["for less than a lease", "for longer"])
def test_a_job_store_that_is_away_for_a_while_costs_no_job(
    away_s: float, runs: int, store: Store, case: Case, targets: Path, start: Start, tmp_path: Path
) -> None:
    """A lock that somebody else holds on the database's file is what "away" is for SQLite."""
    job_id = submit(store, case, targets)
    supervisor = start(silence_s=LEASE_S)
    in_mid_run(store, job_id)
    pid = supervisor.pid
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(away_s)
        other.execute("ROLLBACK")
    check(store, case, targets, job_id)
    assert supervisor.pid == pid, "the executor went on: it was not hung, and nobody took it for that"
    claims = [event for event in store.events(job_id, limit=5000) if event.data.get("event") in ("claim", "reclaim")]
    # A machine that is slow to look may find the store again before anything was given up.
    assert 1 <= len(claims) <= runs
