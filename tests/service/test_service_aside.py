"""Work beside the jobs goes on after a turn that failed, and ends when it is told to."""

from __future__ import annotations

import threading

from convsvc.service.executor.aside import Aside


class Failing(Aside):
    """Fails at its first turn; says when it has had its second."""

    def __init__(self) -> None:
        super().__init__("failing", 0.001, "it failed")
        self.turns, self.again = 0, threading.Event()

    def turn(self) -> None:
        self.turns += 1
        if self.turns == 1:
            raise RuntimeError("the database is away")
        self.again.set()


def test_a_turn_that_failed_is_followed_by_another() -> None:
    beside = Failing()
    beside.start()
    assert beside.again.wait(20)
    beside.stop()
    assert not beside._thread.is_alive()
