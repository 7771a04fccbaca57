"""Tasks in processes that are killed, run out of space, or are watched for their memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from convsvc.engine import make_engine
from convsvc.engine.driver import run_plan
from convsvc.errors import Canceled, NoSpace, StorageError
from convsvc.execute.staging.sites import staging_path
from convsvc.execute.staging.workspace import Staging
from convsvc.execute.worker import run_task
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.plan.plan import Plan
from convsvc.plan.records import Place, PlannedFile, PlannedTensor, Task, Transfer, View
from tests.execute.handmade import Handmade, make_handmade

MIB = 1 << 20
# What the design grants a worker.
MOST_RESIDENT_BYTES = 512 * MIB


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    return make_handmade(tmp_path, rows=512, columns=256)


def run_all(staging: Staging, mode: str = "write") -> None:
    for task in staging.pending(mode):
        run_task({"staging": str(staging.path), "task": task, "mode": mode, "attempt": "a"})


def test_a_task_done_twice_leaves_the_same(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as staging:
        for _ in range(2):
            for task in (0, 1):
                run_task({"staging": str(staging.path), "task": task, "mode": "write", "attempt": "a"})
        assert staging.pending("write") == []
        staging.seal()
        run_all(staging, "verify")
        staging.publish()
    made.check_target()


def test_a_canceled_task_stops_and_leaves_no_mark(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as staging:
        staging.ask_to_stop()
        with pytest.raises(Canceled):
            run_all(staging)
        assert staging.pending("write") == [0, 1]


def test_a_task_in_a_directory_that_is_gone_fails_clearly(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        run_task({"staging": str(tmp_path / "gone"), "task": 0, "mode": "write", "attempt": "a"})


def test_a_run_killed_in_the_middle_is_resumed(made: Handmade, tmp_path: Path) -> None:
    """A second process does the first task, then is killed while it does the other one."""
    with Staging.open(made.plan, "error") as staging:
        path = staging.path
    script = (
        "import sys, time\n"
        "from convsvc.execute import worker\n"
        "from convsvc.execute.disk.io import Writer\n"
        "payload = {'staging': sys.argv[1], 'mode': 'write', 'attempt': 'killed'}\n"
        "worker.run_task({**payload, 'task': 1})\n"
        "worker.DEFAULT_BUDGET = 100_000\n"
        "write, times = Writer.write_from, []\n"
        "def slow(*args):\n"
        "    write(*args)\n"
        "    times.append(1)\n"
        "    if len(times) == 3:\n"
        "        print('in the middle', flush=True)\n"
        "        time.sleep(60)\n"
        "Writer.write_from = slow\n"
        "worker.run_task({**payload, 'task': 0})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        process.send_signal(signal.SIGKILL)
    assert not made.target.exists()
    with closing(make_engine("inline")) as engine:
        result = run_plan(made.plan, engine, on_exists="resume")
    assert (result.tasks_done, result.tasks_skipped) == (1, 1)
    made.check_target()


def test_a_file_size_limit_is_no_space_and_is_not_tried_again(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as staging:
        script = (
            "import json, resource, signal, sys\n"
            "from convsvc.errors import ConvsvcError\n"
            "from convsvc.execute.worker import run_task\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try:\n"
            "    run_task({'staging': sys.argv[1], 'task': 0, 'mode': 'write', 'attempt': 'a'})\n"
            "except ConvsvcError as error:\n"
            "    print(json.dumps(error.as_dict()))\n"
        )
        run = subprocess.run([sys.executable, "-c", script, str(staging.path)], capture_output=True, text=True, check=True)
        error = json.loads(run.stdout)
        assert (error["type"], error["retryable"]) == ("NoSpace", False)
        assert staging.pending("write") == [0, 1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def on(made: Handmade, folder: Path) -> Plan:
    return replace(made.plan, job={"target": {"path": str(folder / "target")}})


def test_a_target_that_does_not_fit_is_refused_before_anything_is_written(small_disk: Path, tmp_path: Path) -> None:
    made = make_handmade(tmp_path, rows=2048, columns=1024)
    with pytest.raises(NoSpace, match="free, the target needs") as caught:
        Staging.open(on(made, small_disk), "error")
    assert caught.value.details["needed"] > caught.value.details["available"] > 0
    assert list(small_disk.rglob("model*")) == []


def test_a_disk_that_fills_up_ends_the_run_with_no_space_and_it_can_be_resumed(small_disk: Path, tmp_path: Path) -> None:
    made = make_handmade(tmp_path, rows=512, columns=256)
    plan = on(made, small_disk)
    Staging.open(plan, "error").close()
    filler = small_disk / "filler"
    status = os.statvfs(small_disk)
    filler.write_bytes(bytes(status.f_bavail * status.f_frsize - 300_000))
    with closing(make_engine("inline")) as engine:
        with pytest.raises(NoSpace, match="no space left"):
            run_task({"staging": str(staging_path(small_disk / "target")), "task": 0, "mode": "write", "attempt": "a"})
        filler.unlink()
        run_plan(plan, engine, on_exists="resume")
    assert (small_disk / "target" / "latest.txt").exists()


def large_plan(folder: Path, rows: int, columns: int) -> Plan:
    """A transpose of one sparse tensor of 32-bit zeros: no bytes on disk to read, but all of them to move."""
    size_bytes = rows * columns * 4
    source = folder / "large"
    with open(source, "wb") as file:
        file.truncate(size_bytes)
    box = (0, 0), (rows, columns)
    transfer = Transfer("w", (rows, columns), (1, 0), (View(*box, (columns, 1), (Place(0, 0),)),), (View(*box, (1, rows), (Place(0, 0),)),))
    skeleton = safetensors.plan_skeleton([TensorSpec("w", "I32", (columns, rows))])
    return Plan(
        {"target": {"path": str(folder / "target")}},
        "large",
        "0" * 64,
        (PlannedFile(str(source), size_bytes, "safetensors"),),
        (PlannedTensor(0, "w", "I32", (rows, columns), 0, size_bytes),),
        (PlannedFile("model.safetensors", skeleton.size_bytes, "safetensors"),),
        (PlannedTensor(0, "w", "I32", (columns, rows), skeleton.tensors[0].file_offset, size_bytes),),
        (skeleton,),
        (0,),
        (),
        (Task(0, "w", (transfer,), size_bytes, size_bytes),),
    )


def test_a_worker_holds_no_more_after_many_tasks_than_after_one(tmp_path: Path) -> None:
    plan = large_plan(tmp_path, 6 << 10, 4 << 10)
    script = (
        "import sys\n"
        "from convsvc.execute.worker import run_task\n"
        "for number in range(5):\n"
        "    for mode in ('write', 'verify'):\n"
        "        run_task({'staging': sys.argv[1], 'task': 0, 'mode': mode, 'attempt': str(number)})\n"
        "    held = next(line for line in open('/proc/self/status') if line.startswith('VmRSS'))\n"
        "    print(int(held.split()[1]) * 1024)\n"
    )
    with Staging.open(plan, "error") as staging:
        run = subprocess.run([sys.executable, "-c", script, str(staging.path)], capture_output=True, text=True, check=True)
        staging.discard()
    held = [int(line) for line in run.stdout.split()]
    assert max(held) < held[0] + 16 * MIB, held


def test_a_worker_moves_a_tensor_that_is_larger_than_the_memory_it_may_use(tmp_path: Path) -> None:
    plan = large_plan(tmp_path, 12 << 10, 16 << 10)
    script = (
        "import sys\n"
        "from convsvc.execute.worker import run_task\n"
        "done = run_task({'staging': sys.argv[1], 'task': 0, 'mode': 'write', 'attempt': 'a'})\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(done['bytes_read'], done['bytes_written'], int(peak.split()[1]) * 1024, 'torch' in sys.modules)\n"
    )
    with Staging.open(plan, "error") as staging:
        run = subprocess.run([sys.executable, "-c", script, str(staging.path)], capture_output=True, text=True, check=True)
        staging.discard()
    bytes_read, bytes_written, peak, has_torch = run.stdout.split()
    assert int(bytes_read) == int(bytes_written) == 768 * MIB
    assert int(peak) < MOST_RESIDENT_BYTES
    assert has_torch == "False"
