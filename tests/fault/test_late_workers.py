"""Workers and executors that were thought dead, stopped with SIGSTOP and continued when others have gone on without them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from convsvc.errors import StorageError, Superseded, TargetBusy
from convsvc.execute.staging.holders import Holder, holder_from_dict, this_process
from convsvc.execute.staging.sites import Site, take_from
from convsvc.execute.staging.workspace import Staging
from convsvc.execute.worker import run_task
from convsvc.roots import ANYWHERE
from tests.execute.handmade import Handmade, make_handmade

# A worker that stops itself just before its N-th look at its fence, and says how its task ended once it was continued.
LATE_WORKER = """
import itertools, json, os, signal, sys
from convsvc.engine.base import Call
from convsvc.engine.calling import run_call
from convsvc.execute import worker

payload, stop_at = json.loads(sys.argv[1]), int(sys.argv[2])
looks, check = itertools.count(), worker.check_fence
writes, write = itertools.count(), os.pwritev

def late(*given):
    if next(looks) == stop_at:
        os.kill(os.getpid(), signal.SIGSTOP)
        os.pwritev = lambda *given: next(writes) and 0 or write(*given)
    return check(*given)

worker.check_fence = late
outcome = run_call(Call("late", "convsvc.execute.worker:run_task", payload, 60), "late", "")
print(json.dumps({"error": outcome.error, "writes": next(writes)}))
"""


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    return make_handmade(tmp_path)


def payload(staging: Staging, task: int, **more: Any) -> dict[str, Any]:
    where = {"staging": str(staging.path), "owner": staging.owner, "fence": staging.fence}
    return {**where, "task": task, "mode": "write", "attempt": "late", **more}


def write_all(staging: Staging) -> None:
    for task in staging.pending("write"):
        run_task(payload(staging, task))


def stopped_worker(staging: Staging, task: int, looks: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LATE_WORKER, json.dumps(payload(staging, task)), str(looks)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_until_stopped(process.pid)
    return process


def wait_until_stopped(pid: int) -> None:
    ended = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_code == os.CLD_STOPPED, "it ended before it was stopped"


def continued(process: subprocess.Popen[str]) -> dict[str, Any]:
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    return dict(json.loads(said))


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_opening_raises_the_fence_and_a_claim_lifts_it_to_its_own(made: Handmade) -> None:
    fences = []
    for claim in (0, 0, 7, 3, 0):
        with Staging.open(made.plan, "resume", this_process("job", claim)) as staging:
            fences.append(staging.fence)
    assert fences == [1, 2, 7, 8, 9]


def test_a_task_with_an_old_fence_is_refused_and_leaves_nothing(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as first:
        old = payload(first, 0)
    with Staging.open(made.plan, "resume") as second:
        before = snapshot(second.path)
        with pytest.raises(Superseded, match="moved on to fence 2, this worker has fence 1"):
            run_task(old)
        assert snapshot(second.path) == before
        assert second.pending("write") == [0, 1]
        write_all(second)
        assert second.pending("write") == []


# Looks: when it begins, at its one step, before the write of each of its three tensors' places, and before its mark.
LOOKS = {"begins": 0, "reads": 1, "writes first": 2, "writes later": 3}


@pytest.mark.parametrize("looks", list(LOOKS.values()), ids=list(LOOKS))
@pytest.mark.parametrize("meanwhile", ["opened again", "sealed", "published", "discarded", "made anew"])
def test_a_worker_that_comes_late_writes_not_a_byte(meanwhile: str, looks: int, made: Handmade) -> None:
    with Staging.open(made.plan, "error") as first:
        late = stopped_worker(first, 0, looks)
    staging = Staging.open(made.plan, "error" if meanwhile == "made anew" else "resume")
    try:
        place = staging.path
        if meanwhile in ("sealed", "published"):
            write_all(staging)
            staging.seal()
        if meanwhile == "published":
            staging.publish()
            place = made.target
        if meanwhile == "discarded":
            staging.discard()
        before = snapshot(place)
        outcome = continued(late)
        assert outcome["error"]["type"] in ("Superseded", "StorageError"), outcome
        assert outcome["writes"] == 0
        assert snapshot(place) == before
        assert place.exists() == (meanwhile != "discarded")
    finally:
        staging.close()
    if meanwhile == "published":
        made.check_target()


@pytest.mark.parametrize("looks", list(LOOKS.values()), ids=list(LOOKS))
def test_a_worker_that_was_given_up_writes_nothing_into_files_that_the_same_run_has_sealed(looks: int, made: Handmade) -> None:
    with Staging.open(made.plan, "error") as staging:
        late = stopped_worker(staging, 0, looks)
        write_all(staging)
        staging.seal()
        before = snapshot(staging.path)
        outcome = continued(late)
        assert (outcome["error"]["type"], outcome["writes"]) == ("Superseded", 0)
        assert snapshot(staging.path) == before
        staging.publish()
    made.check_target()


def test_a_worker_that_was_stopped_before_its_mark_leaves_none(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as first:
        late = stopped_worker(first, 1, last_look(first, 1))
    with Staging.open(made.plan, "resume") as second:
        outcome = continued(late)
        assert outcome["error"]["type"] == "Superseded"
        assert second.pending("write") == [0, 1]


def last_look(staging: Staging, task: int) -> int:
    """How often a worker looks at its fence before it leaves its mark."""
    script = LATE_WORKER.replace('"writes": next(writes)', '"looks": next(looks)')
    command = [sys.executable, "-c", script, json.dumps(payload(staging, task)), "-1"]
    looks = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["looks"]
    (mark,) = (staging.path / ".convsvc" / "marks").iterdir()
    mark.unlink()
    return int(looks) - 1


def test_a_worker_in_a_directory_that_is_no_staging_directory_any_more_says_so(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as staging:
        late = payload(staging, 0)
        write_all(staging)
        staging.seal()
        staging.publish()
    with pytest.raises(StorageError):
        run_task({**late, "staging": str(made.target)})


@pytest.fixture
def hung(made: Handmade) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the target's lock for job "j", claim 3, and is stopped."""
    made.target.parent.mkdir()
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from convsvc.execute.staging.holders import this_process; from convsvc.execute.staging.locks import take_lock\n"
        "lock = take_lock(Path(sys.argv[1]), Path('target'), this_process('j', 3))\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    lock = made.target.with_name(".target.convsvc-lock")
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], text=True) as process:
        wait_until_stopped(process.pid)
        yield process
        process.kill()


def test_a_lock_names_its_holder_and_the_holder_can_be_ended_for_certain(made: Handmade, hung: subprocess.Popen[str]) -> None:
    with pytest.raises(TargetBusy) as caught:
        Staging.open(made.plan, "resume")
    holder = holder_from_dict(caught.value.details)
    assert (holder.pid, holder.job, holder.claim) == (hung.pid, "j", 3)
    assert holder.end()
    assert hung.wait(20) == -signal.SIGKILL
    with Staging.open(made.plan, "resume") as staging:
        staging.discard()


NOT_HERE: dict[str, Callable[[Holder], Holder]] = {
    "another boot": lambda holder: Holder(**{**holder.as_dict(), "boot": "another"}),
    "another PID namespace": lambda holder: Holder(**{**holder.as_dict(), "pids": "pid:[1]"}),
    "an id that is another process's by now": lambda holder: Holder(**{**holder.as_dict(), "started": "1"}),
    "a lock of an old version": lambda holder: Holder(host=holder.host, pid=holder.pid),
}


@pytest.mark.parametrize("change", list(NOT_HERE.values()), ids=list(NOT_HERE))
def test_a_process_that_may_be_another_is_not_ended(change: Callable[[Holder], Holder], hung: subprocess.Popen[str]) -> None:
    started = Path(f"/proc/{hung.pid}/stat").read_text().rpartition(")")[2].split()[19]
    holder = Holder(**{**this_process().as_dict(), "pid": hung.pid, "started": started})
    assert not change(holder).end()
    assert hung.poll() is None
    assert not this_process().end()
    assert holder.end()


def held_elsewhere(hung: subprocess.Popen[str]) -> Holder:
    """As the lock names it: this process cannot end it, say, because it is in another container."""
    started = Path(f"/proc/{hung.pid}/stat").read_text().rpartition(")")[2].split()[19]
    return Holder(**{**this_process("j", 3).as_dict(), "pid": hung.pid, "started": started})


def test_a_target_is_taken_from_a_holder_that_hangs_and_only_from_that_one(made: Handmade, hung: subprocess.Popen[str]) -> None:
    holder = held_elsewhere(hung)
    other = Holder(**{**holder.as_dict(), "claim": 4})
    assert not take_from(made.target, ANYWHERE, other)
    with pytest.raises(TargetBusy):
        Staging.open(made.plan, "resume")
    assert take_from(made.target, ANYWHERE, holder)
    assert sorted(path.name for path in made.target.parent.iterdir()) == []
    with Staging.open(made.plan, "resume") as staging:
        write_all(staging)
        staging.seal()
        staging.publish()
    assert take_from(made.target, ANYWHERE, holder), "it has it no more"


# What a run does that others would see. It holds the target's lock no more, but does not know it yet.
STEPS: dict[str, Callable[[Staging], object]] = {
    "seal": Staging.seal,
    "complete": Staging.complete,
    "publish": Staging.publish,
    "discard": Staging.discard,
    "ask its workers to stop": Staging.ask_to_stop,
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_a_run_from_which_the_target_was_taken_changes_nothing_when_it_wakes(step: Callable[[Staging], object], made: Handmade) -> None:
    with Staging.open(made.plan, "error", this_process("j", 3)) as first:
        write_all(first)
        if step not in (Staging.seal, Staging.ask_to_stop):
            first.seal()
        assert take_from(made.target, ANYWHERE, this_process("j", 3))
        with Staging.open(made.plan, "resume", this_process("j", 4)) as second:
            before = snapshot(second.path)
            with pytest.raises(Superseded):
                step(first)
            first.close()
            assert snapshot(second.path) == before
            with pytest.raises(TargetBusy):
                Staging.open(made.plan, "resume", this_process("j", 5))
            second.seal()
            second.publish()
    made.check_target()


def test_a_run_that_wakes_while_it_publishes_leaves_the_rest_to_its_successor(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped between the journal and the rename, which is where a crash would be settled by the next run."""
    publishing = "convsvc.execute.staging.publishing"
    with Staging.open(made.plan, "error", this_process("j", 3)) as first:
        write_all(first)
        first.seal()
        swap = import_module(publishing)._swap

        def stopped(site: Site, overwrites: bool) -> None:
            monkeypatch.setattr(f"{publishing}._swap", swap)
            assert take_from(made.target, ANYWHERE, this_process("j", 3))
            with Staging.open(made.plan, "resume", this_process("j", 4)) as second:
                assert second.pending("write") == []
                second.seal()
                second.publish()
            swap(site, overwrites)

        monkeypatch.setattr(f"{publishing}._swap", stopped)
        with pytest.raises(Superseded):
            first.publish()
    made.check_target()
    assert [path.name for path in made.target.parent.iterdir() if path.name.startswith(".")] == []
