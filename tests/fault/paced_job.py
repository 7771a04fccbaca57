"""Runs a job on a Ray cluster, each of its tasks a second late, so that there is time to pull a cable. Run as a script.

python paced_job.py RAY_ADDRESS JOB_FILE, with this folder on PYTHONPATH here and on every host: workers call `run_paced`.
On stdout a line for each task that is done, and a line of JSON at the end.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from convsvc.conversion import run
from convsvc.engine import make_engine, phase
from convsvc.engine.listener import Listener
from convsvc.execute.worker import run_task
from convsvc.plan import tasks
from convsvc.plan.planner import make_plan
from convsvc.spec import parse_job

PACE_S = 1.0


def run_paced(payload: dict[str, Any]) -> dict[str, Any]:
    time.sleep(PACE_S)
    return run_task(payload)


class Teller(Listener):
    def __init__(self) -> None:
        self.done: list[tuple[float, str]] = []  # when, in seconds since the machine's boot, and by which worker
        self.failed: list[str] = []

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        self.done.append((time.monotonic(), result["worker"]))
        print(f"{result['mode']} {task} done", flush=True)

    def task_failed(self, task: int, error: dict[str, Any], will_retry: bool, worker: str) -> None:
        self.failed.append(error["message"])


def main(address: str, job_file: str) -> None:
    tasks.FEW_BYTES, phase.FUNCTION = 8 << 20, "paced_job:run_paced"
    plan, teller = make_plan(parse_job(json.loads(Path(job_file).read_text()))), Teller()
    with closing(make_engine("ray", ray_address=address)) as engine:
        began = time.monotonic()
        result = run(plan, engine, listener=teller)
        seconds = time.monotonic() - began
    told = {"seconds": seconds, "tasks": len(plan.tasks), "retried": result.tasks_retried, "failed": teller.failed}
    print(json.dumps({**told, "done": teller.done}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
