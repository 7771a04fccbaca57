"""Runs a command as a process of its own and says what it took, its children included."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a command took.

    `cpu_s` is user + system of all its processes; `peak_bytes` the resident memory of the largest one; `read_bytes` and `written_bytes`
    went from and to the disk, as the kernel counts them for each process (`ru_inblock`, `ru_oublock`: /proc/PID/io).
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    read_bytes: int
    written_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_measured(command: Sequence[str]) -> Measured:
    """Runs the command to its end. Raises CalledProcessError, after showing what it wrote to stderr."""
    began = perf_counter()
    # The kernel counts the launching process's memory as the new one's first: ours must stay small.
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.stderr.write(told)
        raise subprocess.CalledProcessError(process.returncode, command, stderr=told)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measured(wall_s, cpu_s, usage.ru_maxrss * 1024, usage.ru_inblock * 512, usage.ru_oublock * 512)


def run_module(module: str, *arguments: object) -> Measured:
    """`run_measured` of one of our own modules, by this interpreter."""
    return run_measured([sys.executable, "-m", module, *(str(each) for each in arguments)])


def empty_caches(*roots: Path) -> None:
    """Puts everything on the disk and drops it from memory, so that every arm starts alike."""
    os.sync()
    for root in roots:
        for path in root.rglob("*"):
            if path.is_file():
                _drop(path)
    if os.access("/proc/sys/vm/drop_caches", os.W_OK):
        Path("/proc/sys/vm/drop_caches").write_text("3")


def tree_bytes(root: Path) -> int:
    """The size of all files below a directory."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def machine() -> dict[str, Any]:
    """Where and under what load it was measured; for the record beside the numbers."""
    return {"cpus": len(os.sched_getaffinity(0)), "load_1min": round(os.getloadavg()[0], 2), "kernel": os.uname().release}


def _drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
