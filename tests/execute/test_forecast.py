"""What is foretold holds: the room a target takes is what the plan says it needs."""

from __future__ import annotations

import stat
from contextlib import closing
from pathlib import Path

from convsvc.engine import make_engine
from convsvc.engine.driver import run_plan
from convsvc.engine.listener import Listener
from convsvc.execute.forecast import forecast
from convsvc.execute.staging.sites import staging_path
from tests.execute.handmade import make_handmade


class Meter(Listener):
    """The most bytes that the staging directory took on the disk, asked at every step."""

    def __init__(self, staging: Path) -> None:
        self.staging, self.most = staging, 0

    def phase(self, name: str, total: int) -> None:
        self._measure()

    def task_done(self, task: int, result: dict[str, object]) -> None:
        self._measure()

    def _measure(self) -> None:
        self.most = max(self.most, sum(map(_room, self.staging.rglob("*"))))


def _room(path: Path) -> int:
    """A file's bytes on the disk; none if it was renamed in the meantime."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    return status.st_blocks * 512 if stat.S_ISREG(status.st_mode) else 0


def test_a_target_never_takes_more_room_than_foretold(tmp_path: Path) -> None:
    made = make_handmade(tmp_path, rows=1024, columns=512)
    needed = forecast(made.plan).free_bytes_needed
    meter = Meter(staging_path(made.target))
    with closing(make_engine("inline")) as engine:
        run_plan(made.plan, engine, listener=meter)
    assert made.plan.bytes_out <= meter.most <= needed < made.plan.bytes_out + (8 << 20)
