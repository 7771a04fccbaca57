"""Tasks of a quantised release's plan really done: what they read is filled with random codes, what they write is compared.

    python -m benchmarks.filled                      20 tasks of Kimi-K3's shape (2.8T, MXFP4) to pp 16 ep 64, its scales carried along
    ... --tasks 5 --work-dir /disk                   fewer; where the files go (some 3 GB at a time)

The release is header-only: holes of the real sizes. Before a task runs, the tensors that it reads are filled; afterwards its elements are
drawn and decoded one by one from the codes' definition, and everything is made a hole again. Beside each task, from cold caches, too:
`cp` of a file of as many bytes as half of what the task reads and writes together, until it is on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks.measuring import ROOT, empty_caches, machine
from benchmarks.planning import LAYOUTS, drop_data, job, peak_bytes, write_task_files
from benchmarks.results import FOLDER, MIB, save
from benchmarks.sparse_models import MODELS, write_sparse_model
from convsvc.execute.forecast import projected_bytes
from convsvc.execute.staging import sealing
from convsvc.execute.staging.marks import MARKS
from convsvc.execute.staging.task_pack import read_task
from convsvc.execute.task_files import Side, TaskFile, load_task
from convsvc.plan.planner import make_plan
from convsvc.plan.records import PlannedTensor, Transfer, View
from convsvc.tensors.dtypes import size_of

MODEL = "kimi-k3-shaped-2.8t-mxfp4"
PIECE_BYTES = 8 << 20
DRAWN_VIEWS, DRAWN_ELEMENTS = 40, 25
# E2M1, the low four bits first (OCP Microscaling Formats 1.0, 5.3.3); scales are powers of two, E8M0.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
GROUP = 32
SCALES = range(110, 123)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--work-dir", type=Path, help="where files are written (default: a temporary directory)")
    parser.add_argument("--results", type=Path, default=FOLDER)
    options = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(dir=options.work_dir, prefix="filled-") as name:
        source = Path(name) / MODEL
        write_sparse_model(source, MODELS[MODEL])
        plan = make_plan(job(source, LAYOUTS[0]))
        numbers = [len(plan.tasks) * at // options.tasks for at in range(options.tasks)]
        with tempfile.TemporaryDirectory(dir=name) as staging:
            sealing.make_files(plan, Path(staging))
            write_task_files(plan, Path(staging), numbers)
            (Path(staging) / MARKS).mkdir()
            count, projected = len(plan.tasks), projected_bytes(plan)
            del plan
            code = "import json, sys; from benchmarks import filled as f; print(json.dumps(f.do_tasks(*json.loads(sys.argv[1]))))"
            command = [sys.executable, "-c", code, json.dumps([staging, numbers])]
            done = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)
    title = f"{options.tasks} of the {count} tasks of {MODEL} to pp 16 ep 64, filled with random codes, in one process"
    save("filled-tasks", title, [row(done, projected)], before, options.results)


def row(done: Mapping[str, Any], projected: int) -> dict[str, Any]:
    moved = done["read"] + done["written"]
    return {
        "GB in": done["read"] / 1e9,
        "GB out": done["written"] / 1e9,
        "s": done["seconds"],
        "GB/s in and out": moved / done["seconds"] / 1e9,
        "GB/s written": done["written"] / done["seconds"] / 1e9,
        "cpu s / GB in and out": done["cpu"] / moved * 1e9,
        "cp GB/s in and out": moved / done["cp"] / 1e9,
        "x cp": done["cp"] / done["seconds"],
        "peak MiB": done["peak"] / MIB,
        "projected MiB": projected / MIB,
        "elements compared": done["compared"],
    }


def do_tasks(folder: str, numbers: list[int]) -> dict[str, Any]:
    """Fills, runs and compares one task after the other, as a worker runs them; answers bytes, seconds and this process's peak memory."""
    from convsvc.execute.worker import run_task

    staging, numbers_drawn = Path(folder), random.Random(0)
    done = dict.fromkeys(("read", "written", "seconds", "cpu", "cp", "peak", "compared"), 0.0)
    for number in numbers:
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        task = load_task(read_task(descriptor, "write", number))
        os.close(descriptor)
        filled = fill(task, np.random.default_rng(number))
        done["cp"] += copy_seconds(staging.parent, (task.task.bytes_in + task.task.bytes_out) // 2)
        empty_caches(staging.parent)
        began, cpu_began = perf_counter(), process_time()
        counters = run_task({"staging": folder, "task": number, "mode": "write"})
        done["seconds"] += perf_counter() - began
        done["cpu"] += process_time() - cpu_began
        done["read"] += counters["bytes_read"]
        done["written"] += counters["bytes_written"]
        done["peak"] = max(done["peak"], peak_bytes())
        done["compared"] += compare(task, staging, numbers_drawn)
        drop_data(staging)
        for path, first, count in filled:
            punch(path, first, count)
    return done


def fill(task: TaskFile, rng: np.random.Generator) -> list[tuple[str, int, int]]:
    """Random bytes where the task reads, scales of a believable size; answers (file, first byte, bytes)."""
    tensors = task.source.tensors
    spans = {piece: (0, tensors[piece].size_bytes) for tensor in tensors if tensor.coded for piece in tensor.coded.pieces}
    scales = set(spans)
    for transfer in task.task.transfers:
        for view in transfer.reads:
            place, tensor = view.places[0], tensors[view.places[0].tensor]
            if tensor.coded is not None:
                spans[place.tensor] = (0, tensor.size_bytes)
                continue
            size = size_of(tensor.dtype)
            if transfer.name.startswith("published"):
                scales.add(place.tensor)
            start, stop = place.offset * size, (place.offset + 1 + reach(view)) * size
            have = spans.get(place.tensor, (start, stop))
            spans[place.tensor] = (min(have[0], start), max(have[1], stop))
    filled = []
    for number, (start, stop) in spans.items():
        tensor = tensors[number]
        path, first = task.source.files[tensor.file].path, tensor.file_offset + start
        with open(path, "r+b", buffering=0) as file:
            for at in range(first, first + stop - start, PIECE_BYTES):
                count = min(PIECE_BYTES, first + stop - start - at)
                low, high = (SCALES.start, SCALES.stop) if number in scales else (0, 256)
                os.pwrite(file.fileno(), rng.integers(low, high, count, np.uint8).tobytes(), at)
        filled.append((path, first, stop - start))
        # The executor refuses a file that was touched since it was planned.
        os.utime(path, ns=(task.source.files[tensor.file].mtime_ns,) * 2)
    return filled


def reach(view: View) -> int:
    """From a view's first element to its last, in elements of the stored tensor."""
    return sum((stop - start - 1) * stride for start, stop, stride in zip(view.starts, view.stops, view.strides, strict=True))


def punch(path: str, first: int, count: int) -> None:
    """Makes a hole of some bytes of a file."""
    subprocess.run(["fallocate", "--punch-hole", "--offset", str(first), "--length", str(count), path], check=True)


def copy_seconds(folder: Path, size_bytes: int) -> float:
    """What `cp` of so many bytes takes, from cold caches until they are on the disk."""
    one, other = folder / "one", folder / "other"
    with open(one, "wb") as file:
        for _ in range(-(-size_bytes // PIECE_BYTES)):
            file.write(os.urandom(PIECE_BYTES))
    os.truncate(one, size_bytes)
    empty_caches(folder)
    began = perf_counter()
    subprocess.run(["cp", str(one), str(other)], check=True)
    subprocess.run(["sync", str(other)], check=True)
    seconds = perf_counter() - began
    one.unlink()
    other.unlink()
    return seconds


def compare(task: TaskFile, staging: Path, drawn: random.Random) -> int:
    """Draws elements of what was written and decodes them from the source; answers how many. Raises AssertionError where one differs."""
    pairs = [(transfer, view) for transfer in task.task.transfers for view in transfer.writes]
    count = 0
    for transfer, view in (drawn.choice(pairs) for _ in range(DRAWN_VIEWS)):
        for _ in range(DRAWN_ELEMENTS):
            at = tuple([drawn.randrange(*bounds) for bounds in zip(view.starts, view.stops, strict=True)])
            expected = decoded(task.source, transfer, at)
            for tensor, offset in places(view, at):
                made = element(task.target, tensor, offset, staging)
                assert made == expected, f"{transfer.name} {at}: {made.hex()} is there, {expected.hex()} was expected"
                count += 1
    return count


def decoded(source: Side, transfer: Transfer, at: tuple[int, ...]) -> bytes:
    """An element of a logical tensor, in bytes: its code's value times its group's power of two, as bf16; as stored where it is plain."""
    view = next(view for view in transfer.reads if all(a <= i < b for a, i, b in zip(view.starts, at, view.stops, strict=True)))
    number, offset = next(places(view, at))
    tensor = source.tensors[number]
    if tensor.coded is None:
        return element(source, number, offset)
    row, column = divmod(offset, tensor.shape[-1])
    codes, scale = tensor._replace(dtype="U8"), tensor.coded.pieces[0]
    both = stored(source, codes, row * (tensor.shape[-1] // 2) + column // 2)[0]
    power = element(source, scale, row * (tensor.shape[-1] // GROUP) + column // GROUP)[0]
    value = np.float32(E2M1[both >> 4 if column % 2 else both & 15]) * np.float32(2.0) ** np.float32(power - 127)
    return (int(np.float32(value).view(np.uint32)) >> 16).to_bytes(2, "little")


def places(view: View, at: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Where an element of a logical tensor lies: (tensor, offset in elements), for each place of the view."""
    inner = sum((i - start) * stride for i, start, stride in zip(at, view.starts, view.strides, strict=True))
    return ((tensor, offset + inner) for tensor, offset in view.places)


def element(side: Side, number: int, offset: int, root: Path = Path()) -> bytes:
    return stored(side, side.tensors[number], offset, root)


def stored(side: Side, tensor: PlannedTensor, offset: int, root: Path = Path()) -> bytes:
    """An element as it lies in its file."""
    size = size_of(tensor.dtype)
    with open(root / side.files[tensor.file].path, "rb") as file:
        return os.pread(file.fileno(), size, tensor.file_offset + offset * size)


if __name__ == "__main__":
    main()
