"""`python -m tests.security.fuzz --inputs 1000000 --seed 1`: hostile input for every reader, in one process with bounded memory."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.security.fuzz.readers import readers
from tests.security.fuzz.run import Outcome, Report, fuzz

# What may be mapped beyond what the libraries take: torch alone maps gigabytes.
HEADROOM_BYTES = 1 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="a part of a reader's name")
    options = parser.parse_args()
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="convsvc-fuzz-", dir=shared_memory if shared_memory.is_dir() else None) as folder:
        chosen = [each for each in readers(Path(folder)) if (options.only or "") in each.name]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        bound_memory()
        began = time.monotonic()
        report = fuzz(chosen, options.inputs, options.seed, show_reader)
        show(report, time.monotonic() - began, before)
    return 1 if report.crashes else 0


def bound_memory() -> None:
    """Allocating more than the headroom is a MemoryError, which is a crash as every other."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def show_reader(name: str, outcome: Outcome) -> None:
    total = sum(outcome.counts.values())
    print(f"{name}: {total} inputs, {outcome.seconds:.1f} s, slowest {outcome.slowest_s * 1000:.1f} ms: {repr(outcome.slowest)[:160]}")
    for result, count in outcome.counts.most_common():
        print(f"    {count:8d} {result}", flush=True)


def show(report: Report, seconds: float, rss_before: int) -> None:
    for crash in report.crashes.values():
        print(f"--- {crash.reader}: {crash.where}\n{crash.story}\ngiven: {repr(crash.given)[:1500]}")
    crashes = sum(count for each in report.outcomes.values() for result, count in each.counts.items() if result.startswith("CRASH"))
    rss = f"peak RSS {report.peak_rss_bytes >> 20} MiB, {rss_before >> 20} MiB before the first input"
    print(f"{report.inputs} inputs, {crashes} crashes in {len(report.crashes)} places, {seconds:.0f} s, {rss}")


if __name__ == "__main__":
    sys.exit(main())
