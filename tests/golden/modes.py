"""Ways of moving bytes that a conversion chooses between by size, file system and setting: a test can ask for each."""

from __future__ import annotations

from zlib import crc32

import pytest

from convsvc.execute import worker
from convsvc.execute.disk import direct, io
from convsvc.execute.steps import alignment
from convsvc.execute.steps import outputs as writing
from convsvc.execute.steps.budgets import Budget

# Of one process, by the name of the way.
WAYS = ("as a user has it", "direct", "buffered", "tiny steps", "wide tiles")


def way_of(case_id: str) -> str:
    """One of the ways, always the same for a case: together, the cases have them all."""
    return WAYS[crc32(case_id.encode()) % len(WAYS)]


def use_way(way: str, patch: pytest.MonkeyPatch) -> None:
    """Move bytes this way in this process, from now on."""
    if way == "direct":
        for module in (direct, io, writing, alignment):
            patch.setattr(module, "LEAST_BYTES", alignment.BLOCK_BYTES)
    elif way == "buffered":
        patch.setenv(direct.SWITCH, "0")
    elif way == "tiny steps":
        patch.setattr(worker, "BUDGET", Budget(20_000))
    elif way == "wide tiles":
        patch.setattr(worker, "BUDGET", Budget(20_000, 80_000, short_run_bytes=1 << 30))
