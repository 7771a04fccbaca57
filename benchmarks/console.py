"""What the console's first page takes with 10,000 jobs in the store: from the service, and in a browser until something is seen.

python -m benchmarks.console                                          # SQLite, and PostgreSQL if this machine has a server
python -m benchmarks.console --database-url postgresql+psycopg://...  # an empty database

The browser is a headless Chromium of this machine, with an empty cache for each page.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measuring import machine
from benchmarks.posting import cpu_seconds, job, serving
from benchmarks.results import FOLDER, save
from benchmarks.stores import stores
from convsvc.service.access.identity import Caller
from convsvc.service.store.database import Database
from convsvc.service.store.models import DEFAULT_TENANT
from convsvc.spec import parse_job
from tests.console.chromium import chromium, until
from tests.console.crowd import crowd

TIMES, LOOKS = 100, 15
PAGES = {
    "the newest": "/ui/jobs",
    "by state and name": "/ui/jobs?state=queued&name=many+77",
    "a search without a find": "/ui/jobs?name=no-such-name",
}
SEEN = "const paint = performance.getEntriesByName('first-contentful-paint'); return paint.length ? paint[0].startTime : null"


def measure(url: str, pid: int, browser: Any) -> Iterator[dict[str, Any]]:
    """A row for each page: what the service takes for it, of wall and processor, and when a browser shows something."""
    with httpx.Client(base_url=url, headers={"Accept": "text/html"}, timeout=60) as client:
        for page, path in PAGES.items():
            client.get(path).raise_for_status()
            took, spent = [], cpu_seconds(pid)
            for _ in range(TIMES):
                asked = time.perf_counter()
                client.get(path).raise_for_status()
                took.append(time.perf_counter() - asked)
            core = (cpu_seconds(pid) - spent) / TIMES
            seen = [_first_seen(browser, url + path) for _ in range(LOOKS)]
            yield {
                "page": page,
                "answer p50 ms": statistics.median(took) * 1e3,
                "answer p99 ms": statistics.quantiles(took, n=100)[98] * 1e3,
                "CPU ms": core * 1e3,
                "seen p50 ms": statistics.median(seen),
                "seen most ms": max(seen),
            }


def _first_seen(browser: Any, address: str) -> float:
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    browser.get(address)
    return float(until(lambda: browser.execute_script(SEEN), "the page"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--database-url")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    began, rows = machine(), []
    caller = Caller("somebody", DEFAULT_TENANT, frozenset({"jobs:write"}), ())
    with stores(args.database_url) as urls, tempfile.TemporaryDirectory() as folder:
        for store, url in urls.items():
            database = Database(url)
            database.migrate()
            crowd(database, parse_job({**job("many"), "name": "many"}), caller, args.jobs)
            database.close()
            with serving(url, Path(folder) / f"{store}.log") as (address, pid), chromium(Path(folder) / store) as browser:
                rows += [{"store": store, **row} for row in measure(address, pid, browser)]
    save("console", f"The console's list of jobs, {args.jobs} of them in the store", rows, began, args.out)


if __name__ == "__main__":
    main()
