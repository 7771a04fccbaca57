"""Transfers around the page cache: any offset, any memory, any file system; the same bytes in every mode."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from convsvc.engine import make_engine
from convsvc.engine.driver import run_plan
from convsvc.errors import NoSpace, SourceChanged, StorageError
from convsvc.execute.disk import direct
from convsvc.execute.disk.direct import BOUNCE_BYTES, SWITCH, DirectFiles
from convsvc.execute.disk.io import Reader, Writer
from convsvc.execute.forecast import projected_bytes
from convsvc.execute.staging.workspace import Staging
from convsvc.execute.steps.alignment import BLOCK_BYTES, LEAST_BYTES, aligned_bytes
from convsvc.execute.worker import run_task
from convsvc.plan.plan import Plan
from convsvc.plan.records import PlannedFile
from tests.execute.handmade import make_handmade
from tests.execute.test_worker import large_plan
from tests.fault.checkpoints import OF_THE_RUN

FILE_BYTES = 2 * BOUNCE_BYTES + 12345
# (file offset, memory's first byte in a block, size)
RANGES = [
    (0, 0, FILE_BYTES),
    (BLOCK_BYTES, 0, LEAST_BYTES),
    (10, 10, LEAST_BYTES),
    (10, 11, LEAST_BYTES + 3),
    (4095, 1, BOUNCE_BYTES + BLOCK_BYTES),
    (7, 7, FILE_BYTES - 7),
    (7, 64, FILE_BYTES - 7),
    (FILE_BYTES - LEAST_BYTES, (FILE_BYTES - LEAST_BYTES) % BLOCK_BYTES, LEAST_BYTES),
]


@pytest.fixture(params=["direct", "switched off", "refused on opening", "refused on use"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ways in which direct I/O is there or not. The last is a real refusal: the kernel wants more than 64-byte alignment."""
    if request.param == "switched off":
        monkeypatch.setenv(SWITCH, "0")
    if request.param == "refused on opening":
        really_open = os.open

        def refuse(path: str, flags: int, *rest: int, **named: int) -> int:
            if flags & os.O_DIRECT:
                raise OSError(22, "Invalid argument")
            return really_open(path, flags, *rest, **named)

        monkeypatch.setattr(os, "open", refuse)
    if request.param == "refused on use":
        monkeypatch.setattr(direct, "BLOCK_BYTES", 64)
    return str(request.param)


def noise(size_bytes: int) -> bytes:
    return np.random.default_rng(3).bytes(size_bytes)


def memory(start: int, size_bytes: int) -> memoryview:
    return aligned_bytes(start + size_bytes).data[start:]


@pytest.mark.parametrize(("file_offset", "start", "size_bytes"), RANGES)
def test_a_range_is_read_as_it_lies_in_the_file(tmp_path: Path, mode: str, file_offset: int, start: int, size_bytes: int) -> None:
    path, content = tmp_path / "a", noise(FILE_BYTES)
    path.write_bytes(content)
    target = memory(start, size_bytes)
    with closing(Reader([PlannedFile(str(path), FILE_BYTES, "safetensors")], -1)) as reader:
        reader.read_into(0, file_offset, target)
        assert reader.bytes_read == size_bytes
    assert target == content[file_offset : file_offset + size_bytes]


@pytest.mark.parametrize(("file_offset", "start", "size_bytes"), RANGES)
def test_a_range_is_written_and_its_neighbours_stay(tmp_path: Path, mode: str, file_offset: int, start: int, size_bytes: int) -> None:
    path, before, content = tmp_path / "a", noise(FILE_BYTES), noise(size_bytes)[::-1]
    path.write_bytes(before)
    source = memory(start, size_bytes)
    source[:] = content
    with closing(Writer([PlannedFile(str(path), FILE_BYTES, "safetensors")], -1)) as writer:
        writer.write_from(0, file_offset, source)
        writer.sync()
    assert path.read_bytes() == before[:file_offset] + content + before[file_offset + size_bytes :]


def test_two_writers_share_a_block(tmp_path: Path) -> None:
    """Neither of the regions beside their common edge is whole blocks; both writers leave the other's bytes alone."""
    path, content, edge = tmp_path / "a", noise(FILE_BYTES), LEAST_BYTES + 100
    path.write_bytes(bytes(FILE_BYTES))
    files = [PlannedFile(str(path), FILE_BYTES, "safetensors")]
    with closing(Writer(files, -1)) as left, closing(Writer(files, -1)) as right:
        right.write_from(0, edge, memoryview(content)[edge:])
        left.write_from(0, 0, memoryview(content)[:edge])
        right.sync()
        left.sync()
    assert path.read_bytes() == content


def test_large_ranges_do_go_around_the_page_cache_here(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(noise(FILE_BYTES))
    with closing(DirectFiles([PlannedFile(str(path), FILE_BYTES, "safetensors")], -1, os.O_RDWR)) as files:
        if files.read(0, 0, memory(0, LEAST_BYTES)) == 0:
            pytest.skip("this file system has no direct I/O")
        assert files.read(0, 5, memory(0, LEAST_BYTES)) == LEAST_BYTES
        assert files.write(0, 5, memory(0, LEAST_BYTES)) == range(BLOCK_BYTES - 5, LEAST_BYTES - 5)
        assert files.read(0, 0, memory(0, LEAST_BYTES - 1)) == 0


@pytest.mark.parametrize("start", [0, 64])
def test_a_source_that_was_cut_off_under_us_is_an_error(tmp_path: Path, mode: str, start: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(noise(FILE_BYTES))
    with closing(Reader([PlannedFile(str(path), FILE_BYTES, "safetensors")], -1)) as reader:
        reader.read_into(0, 0, memory(start, LEAST_BYTES))
        os.truncate(path, FILE_BYTES // 2)
        with pytest.raises(SourceChanged, match="changed since it was planned"):
            reader.read_into(0, 0, memory(start, FILE_BYTES))


def test_a_full_device_is_no_space(mode: str) -> None:
    with (
        closing(Writer([PlannedFile("/dev/full", 0, "safetensors")], -1)) as writer,
        pytest.raises(NoSpace, match="no space left while writing /dev/full"),
    ):
        writer.write_from(0, 0, memory(0, LEAST_BYTES))


def test_a_directory_for_a_file_is_a_storage_error(tmp_path: Path, mode: str) -> None:
    with (
        closing(Reader([PlannedFile(str(tmp_path), tmp_path.stat().st_size, "safetensors")], -1)) as reader,
        pytest.raises(StorageError, match="Is a directory"),
    ):
        reader.read_into(0, 0, memory(0, LEAST_BYTES))


def digest(root: Path) -> dict[str, str]:
    """Of what is the same in every run."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in OF_THE_RUN)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_mode_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_handmade(tmp_path, rows=1024, columns=512)
    found = {}

    def run(name: str, engine: str, workers: int | None = None, on_exists: str = "overwrite") -> None:
        with closing(make_engine(engine, workers=workers)) as running:
            run_plan(made.plan, running, on_exists=on_exists)
        made.check_target()
        found[name] = digest(made.target)

    run("direct", "inline")
    run("one worker", "process", 1)
    run("two workers", "process", 2)
    monkeypatch.setenv(SWITCH, "0")
    run("buffered", "inline")
    monkeypatch.delenv(SWITCH)
    with Staging.open(made.plan, "overwrite") as staging:
        run_task({"staging": str(staging.path), "task": 1, "mode": "write", "attempt": "a"})
    shutil.rmtree(made.target)
    run("resumed", "inline", on_exists="resume")
    assert all(each == found["direct"] for each in found.values()), found


MEASURE = (
    "import sys\n"
    "from convsvc.execute.worker import run_task\n"
    "for mode in ('write', 'verify'):\n"
    "    run_task({'staging': sys.argv[1], 'task': 0, 'mode': mode, 'attempt': 'a'})\n"
    "status = dict(line.split(':') for line in open('/proc/self/status'))\n"
    "print(int(status['VmHWM'].split()[0]) * 1024)\n"
)


def measured_peak(plan: Plan) -> int:
    with Staging.open(plan, "error") as staging:
        run = subprocess.run([sys.executable, "-c", MEASURE, str(staging.path)], capture_output=True, text=True, check=True)
        staging.discard()
    return int(run.stdout)


@pytest.mark.parametrize(("rows", "columns"), [(1 << 10, 1 << 10), (8 << 10, 16 << 10)], ids=["4 MiB", "512 MiB"])
def test_a_worker_takes_no_more_memory_than_projected(tmp_path: Path, rows: int, columns: int) -> None:
    plan = large_plan(tmp_path, rows, columns)
    projected = projected_bytes(plan)
    assert measured_peak(plan) <= projected
    assert projected <= 512 << 20
