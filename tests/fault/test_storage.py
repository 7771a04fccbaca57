"""Storage that is full, read-only, forbidden, slow, or failing; sources that change: clear errors, and going on once it is well again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import convsvc
from convsvc.engine import make_engine
from convsvc.engine.driver import run_plan
from convsvc.engine.listener import Listener
from convsvc.errors import Canceled, ConvsvcError, FormatError, NoSpace, SourceChanged, StorageError, TargetError
from convsvc.execute.staging.sites import staging_path
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from convsvc.plan.tasks import FEW_BYTES
from convsvc.spec import parse_job
from tests.fault.checkpoints import digests_of, left_beside, make_llama

MIB = 1 << 20
LAYERS = 12  # about 100 MB


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own at `folder`; skips where nothing can be mounted."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("source") / "hf", layers=LAYERS)


@pytest.fixture(scope="module")
def right(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a conversion that nothing disturbs."""
    target = tmp_path_factory.mktemp("right") / "mcore"
    convsvc.convert(job(source, target), engine="inline")
    return digests_of(target)


@pytest.fixture
def mine(source: Path, tmp_path: Path) -> Path:
    """A copy of the source that the test may spoil."""
    copy = tmp_path / "hf"
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def job(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    target_ = {"format": "mindspeed-llm", "path": str(target), "tensor_parallel_size": 2}
    return {"source": {"format": "huggingface", "path": str(source)}, "target": target_, "options": options}


def plan_of(source: Path, target: Path) -> Plan:
    plan = make_plan(parse_job(job(source, target)))
    assert len(plan.tasks) >= 3, f"a checkpoint of more than {3 * FEW_BYTES} bytes in and out has several tasks"
    return plan


class At(Listener):
    """Does something once, when the first task is done."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


def run(plan: Plan, on_exists: str = "error", listener: Listener | None = None, **more: Any) -> Any:
    with closing(make_engine("inline")) as engine:
        return run_plan(plan, engine, on_exists=on_exists, listener=listener, **more)


def used_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 192 MB."""
    if request.param == "tmpfs":
        with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=192m", "tmpfs") as folder:
            yield folder
        return
    with mounted(tmp_path / "disk", "-o", "loop", str(small_ext4(tmp_path))) as folder:
        yield folder


def small_ext4(folder: Path) -> Path:
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(192 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    return image


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all space but so many bytes."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        for _ in range(max(0, status.f_bavail * status.f_frsize - leave) // MIB):
            file.write(bytes(MIB))
        os.fsync(file.fileno())
    return filler


def test_a_target_that_does_not_fit_is_refused_at_once_and_leaves_nothing(disk: Path, source: Path) -> None:
    fill(disk, 50 * MIB)
    before = used_bytes(disk)
    with pytest.raises(NoSpace, match="the target needs") as caught:
        run(plan_of(source, disk / "mcore"))
    assert caught.value.details["needed"] > caught.value.details["available"]
    assert left_beside(disk) == []
    assert used_bytes(disk) == before


def test_a_disk_that_fills_up_in_mid_run_is_named_and_the_run_goes_on_once_there_is_space(
    disk: Path, source: Path, right: dict[str, str]
) -> None:
    target = disk / "mcore"
    plan = plan_of(source, target)
    with pytest.raises(NoSpace, match=r"no space left while (writing|syncing)") as caught:
        run(plan, listener=At(lambda: fill(disk, MIB)))
    assert caught.value.do == "free space on the target's file system and resume"
    assert not target.exists()
    (disk / "filler").unlink()
    result = run(plan, "resume")
    assert result.tasks_skipped >= 1, "what was done before the disk was full is not done again"
    assert digests_of(target) == right
    assert left_beside(disk) == []


def test_the_space_of_a_run_that_is_canceled_is_given_back(disk: Path, source: Path) -> None:
    before = used_bytes(disk)
    stop = threading.Event()
    with pytest.raises(Canceled):
        run(plan_of(source, disk / "mcore"), listener=At(stop.set), should_stop=stop.is_set)
    assert left_beside(disk) == []
    assert used_bytes(disk) <= before + MIB


def largest(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"))


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_a_source_that_is_truncated_in_mid_run_is_named_and_no_worker_dies_of_it(engine: str, mine: Path, tmp_path: Path) -> None:
    file = largest(mine)
    failed: list[dict[str, Any]] = []

    class Truncating(At):
        def task_failed(self, task: int, error: dict[str, Any], will_retry: bool, worker: str) -> None:
            failed.append(error)

    plan = plan_of(mine, tmp_path / "mcore")
    with closing(make_engine(engine, workers=1)) as running, pytest.raises(SourceChanged, match=file.name) as caught:
        run_plan(plan, running, listener=Truncating(lambda: os.truncate(file, file.stat().st_size // 2)))
    assert caught.value.details["path"] == str(file)
    assert [error["type"] for error in failed] == ["SourceChanged"], "a worker that is killed by SIGBUS would be lost"
    assert not (tmp_path / "mcore").exists()


@pytest.mark.parametrize("how", ["another file of the same size", "the same file with other bytes", "gone"])
def test_a_source_that_is_replaced_in_mid_run_is_named_and_nothing_is_published(how: str, mine: Path, tmp_path: Path) -> None:
    file = largest(mine)

    def replace() -> None:
        if how == "gone":
            file.unlink()
        elif how == "the same file with other bytes":
            with file.open("r+b") as opened:
                opened.seek(-64, os.SEEK_END)
                opened.write(bytes(64))
        else:
            other = mine / "other"
            other.write_bytes(file.read_bytes()[:-64] + bytes(64))
            other.replace(file)

    with pytest.raises(SourceChanged, match=file.name):
        run(plan_of(mine, tmp_path / "mcore"), listener=At(replace))
    assert not (tmp_path / "mcore").exists()


def test_a_read_only_target_is_named(source: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "ro", "tmpfs") as disk, pytest.raises(TargetError, match="Read-only") as caught:
        run(plan_of(source, disk / "mcore"))
    assert str(disk) in str(caught.value)


def test_a_file_system_that_gives_up_in_mid_run_is_named_and_gone_on_with_after_its_repair(
    source: Path, right: dict[str, str], tmp_path: Path
) -> None:
    """The kernel makes an ext4 read-only when it finds it damaged, whoever is writing. Here it is told so."""
    image = small_ext4(tmp_path)
    with mounted(tmp_path / "disk", "-o", "loop,errors=remount-ro", str(image)) as disk:
        plan = plan_of(source, disk / "mcore")
        device = subprocess.run(["findmnt", "-no", "SOURCE", disk], capture_output=True, text=True, check=True).stdout.strip()
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        with pytest.raises(ConvsvcError, match="Read-only file system") as caught:
            run(plan, listener=At(lambda: trigger.write_text("1")), max_attempts=1)
        assert isinstance(caught.value, StorageError | TargetError)
    repaired = subprocess.run(["e2fsck", "-fy", image], capture_output=True, check=False)
    assert repaired.returncode in (0, 1), repaired.stdout
    with mounted(tmp_path / "disk", "-o", "loop", str(image)):
        run(plan, "resume")
        assert digests_of(disk / "mcore") == right


@contextmanager
def as_nobody() -> Iterator[None]:
    """This process without its privileges: the kernel asks for permissions as it does of anybody."""
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that others may enter, as pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("where", "kind"), [("target", TargetError), ("source", FormatError)])
def test_what_may_not_be_read_or_written_is_named(
    where: str, kind: type[ConvsvcError], source: Path, right: dict[str, str], open_folder: Path
) -> None:
    mine, out = open_folder / "hf", open_folder / "out"
    shutil.copytree(source, mine)
    for file in mine.iterdir():
        file.chmod(0o644)
    out.mkdir()
    if where == "source":
        out.chmod(0o777)
        largest(mine).chmod(0o600)
    with as_nobody(), pytest.raises(kind, match="Permission denied") as caught:
        convsvc.convert(job(mine, out / "mcore"), engine="inline")
    assert str(largest(mine) if where == "source" else out) in str(caught.value)
    assert left_beside(out) == []


Hook = Callable[[Callable[..., int], int, list[memoryview], int], int]


def through(monkeypatch: pytest.MonkeyPatch, name: str, hook: Hook) -> None:
    """Every positioned read or write of a worker in this process goes through `hook`, which is given the real call."""
    real = getattr(os, name)
    monkeypatch.setattr(os, name, lambda descriptor, buffers, offset, *flags: hook(real, descriptor, list(buffers), offset))


def in_a_file_of(folder: Path, descriptor: int) -> bool:
    return os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{folder}/")


@pytest.mark.parametrize("name", ["preadv", "pwritev"])
def test_a_bad_sector_ends_the_run_and_names_the_file_and_a_passing_one_does_not(
    name: str, source: Path, right: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = source if name == "preadv" else tmp_path
    left = [10**9]

    def failing(real: Callable[..., int], descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if in_a_file_of(folder, descriptor) and offset > MIB and left[0] > 0:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, buffers, offset)

    through(monkeypatch, name, failing)
    plan = plan_of(source, tmp_path / "mcore")
    with pytest.raises(StorageError, match=r"(reading|writing) .* failed: Input/output error") as caught:
        run(plan, max_attempts=2)
    assert caught.value.details["errno"] == "EIO"
    assert (str(source) if name == "preadv" else "model_optim_rng.pt") in caught.value.details["path"]
    left[0] = 1
    assert run(plan, "resume").tasks_retried == 1
    assert digests_of(tmp_path / "mcore") == right


def test_short_reads_and_writes_lose_nothing(source: Path, right: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, int] = {"preadv": 0, "pwritev": 0}

    def short(name: str) -> Hook:
        def hook(real: Callable[..., int], descriptor: int, buffers: list[memoryview], offset: int) -> int:
            calls[name] += 1
            first = memoryview(buffers[0])
            if len(buffers) == 1 and len(first) > 8192 and calls[name] % 2:
                first = first[: len(first) // 3 // 512 * 512]  # whole sectors, as a device would
                return real(descriptor, [first], offset)
            return real(descriptor, buffers, offset)

        return hook

    for name in calls:
        through(monkeypatch, name, short(name))
    run(plan_of(source, tmp_path / "mcore"))
    assert min(calls.values()) > 10
    assert digests_of(tmp_path / "mcore") == right


def test_signals_in_the_midst_of_reads_and_writes_lose_nothing(source: Path, right: dict[str, str], tmp_path: Path) -> None:
    """A timer's signals interrupt whatever the process does, hundreds of times; EINTR and short counts come from the kernel itself."""
    script = (
        "import json, signal, sys\n"
        "import convsvc\n"
        "from convsvc.execute import worker\n"
        "count = []\n"
        "signal.signal(signal.SIGALRM, lambda *_: count.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "convsvc.convert(json.loads(sys.argv[1]), engine='inline')\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print(len(count))\n"
    )
    command = [sys.executable, "-c", script, json.dumps(job(source, tmp_path / "mcore"))]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(said.stdout) > 50
    assert digests_of(tmp_path / "mcore") == right


def test_slow_storage_takes_its_time_and_no_deadline_that_is_longer_than_a_task(
    source: Path, right: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every read and write waits: 100 ms, as on a share that somebody else is using. A cancel is heard all the same."""
    waiting = threading.Event()

    def slow(real: Callable[..., int], descriptor: int, buffers: list[memoryview], offset: int) -> int:
        waiting.wait(0.1)
        return real(descriptor, buffers, offset)

    through(monkeypatch, "preadv", slow)
    through(monkeypatch, "pwritev", slow)
    plan = plan_of(source, tmp_path / "mcore")
    result = run(plan, task_timeout_s=60)
    assert (result.tasks_retried, digests_of(tmp_path / "mcore")) == (0, right)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(Canceled):
        run(plan, "overwrite", should_stop=stop.is_set)
    assert not staging_path(tmp_path / "mcore").exists()
