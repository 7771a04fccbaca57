"""Runs one job in this process and its workers.

python -m benchmarks.one_job JOB_JSON WORKERS
"""

from __future__ import annotations

import json
import sys

from convsvc.conversion import convert

if __name__ == "__main__":
    result = convert(json.loads(sys.argv[1]), engine="process", workers=int(sys.argv[2]))
    print(json.dumps(result.as_dict()))
