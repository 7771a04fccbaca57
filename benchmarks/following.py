"""Many follow jobs on which nothing happens: what they cost a real `convsvc serve`, and how long others wait for `GET /jobs/ID` meanwhile.

python -m benchmarks.following --followers 500                          # SQLite, and PostgreSQL if this machine has a server
python -m benchmarks.following --database-url postgresql+psycopg://...  # an empty database

The followers' own side is in this process, which shares the machine's processors with the service.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measuring import machine
from benchmarks.posting import cpu_seconds, job, serving
from benchmarks.results import FOLDER, save
from benchmarks.stores import stores

JOBS = 10  # that are followed
SETTLE_S = 5.0


async def measure(url: str, pid: int, followers: int, seconds: float) -> dict[str, Any]:
    """One row: so many idle streams, of ten jobs, for so long."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        ids = [(await client.post("/jobs", json=job(f"followed-{followers}-{n}"))).json()["id"] for n in range(JOBS)]
        opened = asyncio.Semaphore(0)

        async def follow(job_id: str) -> None:
            async with client.stream("GET", f"/jobs/{job_id}/events") as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("event: submitted"):
                        opened.release()

        streams = [asyncio.create_task(follow(ids[n % JOBS])) for n in range(followers)]
        for _ in streams:
            await opened.acquire()
        await asyncio.sleep(SETTLE_S)
        began, spent, took = time.perf_counter(), cpu_seconds(pid), []
        while time.perf_counter() - began < seconds:
            asked = time.perf_counter()
            (await client.get(f"/jobs/{ids[0]}")).raise_for_status()
            took.append(time.perf_counter() - asked)
            await asyncio.sleep(0.1)
        core = (cpu_seconds(pid) - spent) / (time.perf_counter() - began)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    p50, p99 = statistics.median(took), statistics.quantiles(took, n=100)[98]
    return {"followers": followers, "core %": 100 * core, "GET p50 ms": p50 * 1e3, "GET p99 ms": p99 * 1e3, "GETs": len(took)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url")
    parser.add_argument("--followers", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--results", type=Path, default=FOLDER)
    args = parser.parse_args()
    began = machine()
    rows = []
    with tempfile.TemporaryDirectory() as folder, stores(args.database_url) as urls:
        for name, url in urls.items():
            with serving(url, Path(folder) / f"{name}.log") as (service, pid):
                for count in (0, args.followers):
                    rows.append({"store": name, **asyncio.run(measure(service, pid, count, args.seconds))})
    save("following", "Idle followers of jobs, and others who ask meanwhile (ten times a second)", rows, began, args.results)


if __name__ == "__main__":
    main()
