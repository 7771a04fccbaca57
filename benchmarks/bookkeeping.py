"""What the job store's bookkeeping takes of the driver's time: milliseconds a task, for a job of thousands of tasks.

python -m benchmarks.bookkeeping --tasks 5000                          # SQLite, and PostgreSQL if this machine has a server
python -m benchmarks.bookkeeping --database-url postgresql+psycopg://...  # an empty database

The listener that the driver tells of a run is told of one: each task starts, says a line and is done, then is verified. No task is run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.measuring import machine
from benchmarks.results import FOLDER, save
from benchmarks.stores import stores
from convsvc.service.executor.runner import StoreListener
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job

# As many tasks are under way as a cluster of some dozens of CPUs has.
WINDOW = 64
JOB = {
    "source": {"format": "huggingface", "path": "/shared/in"},
    "target": {"format": "mindspeed-llm", "path": "/shared/out", "tensor_parallel_size": 8},
}
RESULT = {"bytes_read": 1 << 30, "bytes_written": 1 << 30, "seconds": 1.0, "worker": "ray-node-17-4242"}


def book(url: str, tasks: int) -> dict[str, float]:
    """Milliseconds a task in both phases, for one job: of the clock, and of this process's processor."""
    database = Database(url)
    database.migrate()
    try:
        Store(database).submit(parse_job(JOB))
        claims = Claims(database, "benchmark", engine="ray")
        claim = claims.claim()
        assert claim is not None
        began = time.perf_counter()
        claims.planned(claim, "deepseek_v3", {}, [PlannedTask(n, f"decoder.layers.{n}", 1 << 30) for n in range(tasks)])
        row = {"planned ms/task": (time.perf_counter() - began) * 1e3 / tasks}
        listener = StoreListener(claims, claim)
        for phase in ("write", "verify"):
            began, spent = time.perf_counter(), time.process_time()
            listener.phase(phase, tasks)
            _tell(listener, tasks)
            getattr(listener, "flush", lambda: None)()
            row[f"{phase} ms/task"] = (time.perf_counter() - began) * 1e3 / tasks
            row[f"{phase} CPU ms/task"] = (time.process_time() - spent) * 1e3 / tasks
        counts = Store(database).job(claim.job_id).progress
        assert counts.tasks_done == tasks, counts
        claims.succeed(claim, {})
    finally:
        database.close()
    return row


def _tell(listener: StoreListener, tasks: int) -> None:
    turn = getattr(listener, "turn", lambda: None)
    for number in range(tasks + WINDOW):
        if number < tasks:
            listener.task_started(number, f"decoder.layers.{number}", 1)
        done = number - WINDOW
        if done >= 0:
            line = {"at": 1_700_000_000.0, "level": "info", "message": "read 1073.7 MB, wrote 1073.7 MB in 1.00 s"}
            listener.task_said(done, [line])
            listener.task_done(done, RESULT)
        turn()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--database-url")
    parser.add_argument("--results", type=Path, default=FOLDER)
    args = parser.parse_args()
    began = machine()
    with stores(args.database_url) as urls:
        rows = [{"store": name, "tasks": args.tasks, **book(url, args.tasks)} for name, url in urls.items()]
    save("bookkeeping", "What the driver spends on telling the job store of its tasks", rows, began, args.results)


if __name__ == "__main__":
    main()
