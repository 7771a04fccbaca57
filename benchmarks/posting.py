"""Many clients post jobs to a real `convsvc serve` at once: requests a second, their times, the service's processor time a job.

python -m benchmarks.posting --clients 200 --jobs 2000                # SQLite, and PostgreSQL if this machine has a server
python -m benchmarks.posting --database-url postgresql+psycopg://...  # an empty database

Clients and service share the machine's processors. An arm with one client says what a request takes when nobody else asks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measuring import machine
from benchmarks.results import FOLDER, save
from benchmarks.stores import stores


@dataclass
class Tally:
    """What came back: statuses, ids by key, seconds of each request."""

    statuses: Counter[int] = field(default_factory=Counter)
    ids: dict[str, set[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def add(self, key: str, answer: httpx.Response, seconds: float) -> None:
        self.statuses[answer.status_code] += 1
        self.seconds.append(seconds)
        self.ids.setdefault(key, set()).add(answer.json().get("id", answer.text))

    def at(self, percent: int) -> float:
        return statistics.quantiles(self.seconds, n=100)[percent - 1]


@contextmanager
def serving(database_url: str, log: Path) -> Iterator[tuple[str, int]]:
    """`convsvc serve --no-executor`: its URL and its process."""
    command = [sys.executable, "-m", "convsvc.cli.main", "serve", "--no-executor", "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "CONVSVC_DATABASE_URL": database_url}
        )
    try:
        assert process.stdout is not None
        ready = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert ready, log.read_text()
        yield ready[0], process.pid
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()  # type: ignore[union-attr]  # it is a pipe


def job(number: str) -> dict[str, Any]:
    source = {"format": "huggingface", "path": "/shared/in"}
    return {"source": source, "target": {"format": "mindspeed-llm", "path": f"/shared/out/{number}"}}


async def post_all(url: str, shares: Sequence[Sequence[str]], times: int = 1) -> Tally:
    """A client for each share, which posts its keys one after the other, each `times` at once."""
    tally, context = Tally(), ssl.create_default_context()

    async def post(client: httpx.AsyncClient, key: str) -> None:
        began = time.perf_counter()
        answer = await client.post("/jobs", json=job(key), headers={"Idempotency-Key": key})
        tally.add(key, answer, time.perf_counter() - began)

    async def work(keys: Sequence[str]) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60, verify=context) as client:
            for key in keys:
                await asyncio.gather(*(post(client, key) for _ in range(times)))

    await asyncio.gather(*map(work, shares))
    return tally


def keys_of(name: str, count: int, clients: int) -> list[list[str]]:
    """A share of so many keys for each client."""
    return [[f"{name}-{client}-{number}" for number in range(count // clients)] for client in range(clients)]


def resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(url: str, pid: int, jobs: int, clients: int) -> dict[str, Any]:
    """One row: so many clients post so many jobs."""
    asyncio.run(post_all(url, keys_of(f"warm{clients}", clients, clients)))
    before, began, spent = resident_bytes(pid), time.perf_counter(), cpu_seconds(pid)
    posted = asyncio.run(post_all(url, keys_of(f"job{clients}", jobs, clients)))
    seconds, cpu_s = time.perf_counter() - began, cpu_seconds(pid) - spent
    return {
        "clients": clients,
        "jobs": jobs,
        "POST/s": jobs / seconds,
        "p50 ms": posted.at(50) * 1000,
        "p99 ms": posted.at(99) * 1000,
        "CPU ms/job": cpu_s / jobs * 1000,
        "API grew MiB": (resident_bytes(pid) - before) / 2**20,
        "not 201": sum(count for status, count in posted.statuses.items() if status != 201),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--results", type=Path, default=FOLDER)
    args = parser.parse_args()
    began = machine()
    rows = []
    with tempfile.TemporaryDirectory() as folder, stores(args.database_url) as urls:
        for name, url in urls.items():
            with serving(url, Path(folder) / f"{name}.log") as (service, pid):
                for jobs, clients in ((min(args.jobs, 200), 1), (args.jobs, args.clients)):
                    rows.append({"store": name, **measure(service, pid, jobs, clients)})
    save("posting", "Clients that post jobs to the service at once", rows, began, args.results)


if __name__ == "__main__":
    main()
