"""A machine that cannot work gets one task and no more; a task that failed is tried elsewhere; an engine that is gone fails no job."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from convsvc.engine import Call, Outcome
from convsvc.engine.driver import run_plan
from convsvc.engine.inline import InlineEngine
from convsvc.engine.listener import Listener
from convsvc.engine.places import STREAK, Places
from convsvc.errors import EngineAway, PlaceUnfit, StorageError
from tests.execute.handmade import Handmade, make_handmade

A, B, C = "a", "b", "c"
ALL = frozenset({A, B, C})


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    return make_handmade(tmp_path)


def test_a_task_is_tried_elsewhere_and_anywhere_again_once_it_failed_everywhere() -> None:
    places = Places()
    places.failed(1, A)
    assert places.avoid(1, ALL) == {A}
    assert places.avoid(2, ALL) == frozenset()
    places.failed(1, B)
    places.failed(1, C)
    assert places.avoid(1, ALL) == frozenset()


def test_an_unfit_place_is_avoided_by_all_even_where_nothing_else_is_left() -> None:
    places = Places()
    places.unfit(A, "no mount")
    places.failed(1, B)
    places.failed(1, C)
    assert places.avoid(1, ALL) == {A}
    assert not places.nowhere(ALL)
    assert places.nowhere(frozenset({A})) == {A: "no mount"}
    assert not places.nowhere(frozenset()), "nobody knows what is there"


def test_a_place_where_one_task_after_the_other_fails_is_left_alone_until_one_succeeds() -> None:
    places = Places()
    for task in range(STREAK):
        places.failed(task, A)
    assert places.avoid(99, ALL) == {A}
    places.succeeded(A)
    assert places.avoid(99, ALL) == frozenset()


class Cluster(InlineEngine):
    """Machines that are all this one: what a call does on a machine is `fate(machine, call)`, None for as it should be.

    Whoever failed last is idle first, as in life.
    """

    def __init__(self, fate: Any, machines: tuple[str, ...] = (A, B)) -> None:
        super().__init__()
        self.fate, self.machines, self.ran = fate, machines, []

    @property
    def places(self) -> frozenset[str]:
        return frozenset(self.machines)

    def submit(self, call: Call) -> None:
        self.ran.append(next((machine for machine in self.machines if machine not in call.avoid), self.machines[0]))
        super().submit(call)

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = super().wait(timeout_s)
        return [self._as_fated(outcome, self.ran.pop(0)) for outcome in outcomes]

    def _as_fated(self, outcome: Outcome, machine: str) -> Outcome:
        ended = self.fate(machine, outcome)
        where = {"worker": f"worker-{machine}", "place": machine}
        if ended is None:
            return Outcome(outcome.id, outcome.value, outcome.error, **where)
        return Outcome(outcome.id, error=ended.as_dict(), lost=not isinstance(ended, PlaceUnfit | StorageError), **where)


class Heard(Listener):
    def __init__(self) -> None:
        self.failed: list[tuple[str, bool]] = []

    def task_failed(self, task: int, error: dict[str, Any], will_retry: bool, worker: str) -> None:
        self.failed.append((worker, will_retry))


def test_a_machine_without_the_mount_costs_nobody_an_attempt_and_is_named(made: Handmade) -> None:
    heard = Heard()
    with closing(Cluster(lambda machine, _: PlaceUnfit("no mount") if machine == A else None)) as engine:
        run_plan(made.plan, engine, max_attempts=1, listener=heard)
    made.check_target()
    assert heard.failed
    assert set(heard.failed) == {("worker-a", True)}


def test_a_task_that_fails_on_one_machine_is_done_on_another(made: Handmade) -> None:
    heard = Heard()
    with closing(Cluster(lambda machine, _: StorageError("a bad disk") if machine == A else None)) as engine:
        run_plan(made.plan, engine, max_attempts=2, listener=heard)
    made.check_target()
    assert set(heard.failed) == {("worker-a", True)}


def test_where_no_machine_can_work_each_reason_is_told(made: Handmade) -> None:
    with closing(Cluster(lambda machine, _: PlaceUnfit(f"no mount on {machine}"))) as engine, pytest.raises(StorageError) as caught:
        run_plan(made.plan, engine)
    assert "no machine can do the work, of 2" in str(caught.value)
    assert caught.value.facts == ("no mount on a", "no mount on b")


def test_an_engine_from_which_nothing_comes_back_is_away_and_no_job_has_failed(made: Handmade) -> None:
    def gone(machine: str, outcome: Outcome) -> Exception:
        return EngineAway("its raylet died")

    with closing(Cluster(gone)) as engine, pytest.raises(EngineAway, match="no task comes back"):
        run_plan(made.plan, engine, max_attempts=2)


def test_tasks_that_end_their_workers_are_the_jobs_fault_where_the_engine_answers(made: Handmade) -> None:
    def gone(machine: str, outcome: Outcome) -> Exception | None:
        return None if outcome.id.startswith("probe") else EngineAway("killed by the out-of-memory killer")

    with closing(Cluster(gone)) as engine, pytest.raises(StorageError, match="was lost 2 times"):
        run_plan(made.plan, engine, max_attempts=2)
