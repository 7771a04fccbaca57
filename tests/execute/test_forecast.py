"""What is foretold holds: the room a target takes is what the plan says it needs."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from convsvc.engine import make_engine
from convsvc.engine.driver import run_plan
from convsvc.engine.listener import Listener
from convsvc.execute.forecast import forecast
from convsvc.execute.staging import staging_path
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
        files = [path for path in self.staging.rglob("*") if path.is_file()]
        self.most = max(self.most, sum(os.stat(path).st_blocks * 512 for path in files))


def test_a_target_never_takes_more_room_than_foretold(tmp_path: Path) -> None:
    made = make_handmade(tmp_path, rows=1024, columns=512)
    needed = forecast(made.plan).free_bytes_needed
    meter = Meter(staging_path(made.target))
    with closing(make_engine("inline")) as engine:
        run_plan(made.plan, engine, listener=meter)
    assert made.plan.bytes_out <= meter.most <= needed < made.plan.bytes_out + (8 << 20)
