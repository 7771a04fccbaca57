"""Runs a plan again and again, each time killed at another call to the operating system. Run as a script.

It obeys lines on stdin, "FOLDER ON_EXISTS WAY" or "FOLDER ON_EXISTS WAY N": run the plan that lies in FOLDER/plan.pickle in a child
process, which kills itself with SIGKILL before the N-th of its calls that change something on storage. After each it answers on stdout
with a line of JSON, {"status": as of os.waitpid, "calls": how many there were if it lived, "publishing": how many before publishing}.

WAY is how the target is published: "exchange", "renames" (on a file system that cannot exchange two names) or "inside" (into a target that
keeps its directory, as a mount point does).

The calls are those of Python's `os` module that change files, in whatever thread: made by the driver, by a task, by anything.
"""

from __future__ import annotations

import errno
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
from convsvc.execute.staging import renaming, sites
from convsvc.execute.staging.workspace import Staging
from tests.execute.handmade import reverse_of

CHANGING = (
    "chmod", "fchmod", "fdatasync", "fsync", "ftruncate", "link", "mkdir", "pwrite", "pwritev", "remove", "rename", "replace",
    "rmdir", "symlink", "truncate", "unlink", "write",
)  # fmt: skip

# Only one way is looked at from its first call to its last; in the others what comes before publishing is to be quick.
VERIFY = {"exchange": "roundtrip", "renames": "none", "inside": "none"}


def count_calls(fatal: int | None) -> list[int]:
    """Every changing call has a number; the one whose number is fatal does not come to pass. Answers how many there were, kept up."""
    count = [0]

    def numbered(call):
        def instead(*args, **more):
            if count[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return call(*args, **more)

        return instead

    for name in CHANGING:
        setattr(os, name, numbered(getattr(os, name)))
    renaming._renameat2 = numbered(renaming._renameat2)
    return count


def go(way: str) -> None:
    """From now on targets are published this way."""
    if way == "renames":
        renaming._renameat2 = lambda *_: errno.EINVAL
    if way == "inside":
        sites.must_stay = lambda *_: True


def live(folder: Path, on_exists: str, way: str, fatal: int | None) -> None:
    go(way)
    publish, began = Staging.publish, []

    def publish_noted(self, *args):
        began.append(count[0])
        return publish(self, *args)

    Staging.publish = publish_noted
    plan = pickle.loads((folder / "plan.pickle").read_bytes())
    with closing(make_engine("inline")) as engine:
        count = count_calls(fatal)
        run_plan(plan, engine, verify=VERIFY[way], reverse_tasks=reverse_of(plan), on_exists=on_exists)
        calls = count[0]
    (folder / "calls").write_text(json.dumps({"calls": calls, "publishing": began[0]}))


def main() -> None:
    for line in sys.stdin:
        folder, on_exists, way, *fatal = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            live(Path(folder), on_exists, way, int(fatal[0]) if fatal else None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        calls = Path(folder) / "calls"
        print(json.dumps({"status": status, **(json.loads(calls.read_text()) if calls.exists() else {})}), flush=True)


if __name__ == "__main__":
    main()
