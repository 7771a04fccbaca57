"""Runs a plan again and again, each time killed at another call to the operating system. Run as a script.

It obeys lines on stdin, "FOLDER ON_EXISTS" or "FOLDER ON_EXISTS N": run the plan that lies in FOLDER/plan.pickle in a child process,
which kills itself with SIGKILL before the N-th of its calls that change something on storage. After each it answers on stdout with a
line of JSON, {"status": as of os.waitpid, "calls": how many there were if it lived}.

The calls are those of Python's `os` module that change files, in whatever thread: made by the driver, by a task, by anything.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import signal
import sys
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from convsvc.engine import make_engine
from convsvc.engine.driver import run_plan
from tests.execute.handmade import reverse_of

CHANGING = (
    "chmod", "fchmod", "fdatasync", "fsync", "ftruncate", "link", "mkdir", "pwrite", "pwritev", "remove", "rename", "replace",
    "rmdir", "symlink", "truncate", "unlink", "write",
)  # fmt: skip


def count_calls(fatal: int | None) -> itertools.count[int]:
    """Every changing call takes a number from what is answered; the one whose number is fatal does not come to pass."""
    numbers = itertools.count()

    def numbered(call):
        def instead(*args, **more):
            if next(numbers) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)

        return instead

    for name in CHANGING:
        setattr(os, name, numbered(getattr(os, name)))
    return numbers


def live(folder: Path, on_exists: str, fatal: int | None) -> None:
    plan = pickle.loads((folder / "plan.pickle").read_bytes())
    with closing(make_engine("inline")) as engine:
        numbers = count_calls(fatal)
        run_plan(plan, engine, verify="roundtrip", reverse_tasks=reverse_of(plan), on_exists=on_exists)
        calls = next(numbers)
    (folder / "calls").write_text(str(calls))


def main() -> None:
    for line in sys.stdin:
        folder, on_exists, *fatal = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            live(Path(folder), on_exists, int(fatal[0]) if fatal else None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        calls = Path(folder) / "calls"
        print(json.dumps({"status": status, "calls": int(calls.read_text()) if calls.exists() else None}), flush=True)


if __name__ == "__main__":
    main()
