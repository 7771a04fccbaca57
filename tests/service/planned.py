"""A plan's summary for tests in which planning is beside the point."""

from __future__ import annotations

from typing import Any

from convsvc.roots import Roots
from convsvc.spec import Job


def planned(job: Job, roots: Roots) -> dict[str, Any]:
    """What `POST /plans` answers of a Llama, whatever the job says."""
    return {
        "model_type": "llama2",
        "fingerprint": "f",
        "source": {"files": 1, "tensors": 12, "bytes_read": 300},
        "target": {"path": job.target.path, "files": 3, "tensors": 12, "bytes": 300},
        "tasks": 3,
        "transfers": 12,
        "largest_task_bytes": 200,
        "balance": 1.0,
        "needs": {"projected_bytes": 150 << 20, "free_bytes_needed": 300, "free_bytes_available": 1 << 30},
        "facts": {"layers": 1},
        "notes": [],
    }
