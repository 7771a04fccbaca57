"""Runs one job in this process and its workers.

    python -m benchmarks.one_job JOB_JSON WORKERS
    ... --cpus 1     all of them on the first processor

The result is printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import os

from convsvc.conversion import convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads)
    parser.add_argument("workers", type=int)
    parser.add_argument("--cpus", type=int)
    given = parser.parse_args()
    # Workers inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cpus])
    result = convert(given.job, engine="process", workers=given.workers)
    print(json.dumps(result.as_dict()))


if __name__ == "__main__":
    main()
