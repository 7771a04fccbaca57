"""The state machine alone: events in, states and instructions out."""

from __future__ import annotations

from typing import get_args

import pytest

from convsvc.service.errors import IllegalTransition
from convsvc.service.store.states import ENDED, JOB_STATES, LEASED, JobEvent, job_step, possible_events, task_step

EVENTS: tuple[JobEvent, ...] = get_args(JobEvent)
STEPS = [(state, event, job_step(state, event)) for state in JOB_STATES for event in EVENTS if event in possible_events(state)]


def test_a_job_that_meets_no_trouble_passes_every_state() -> None:
    state, path = "queued", []
    for event in ("claim", "planned", "seal", "verify", "seal", "succeed"):
        state = job_step(state, event).state  # type: ignore[arg-type]
        path.append(state)
    assert path == ["planning", "running", "sealing", "verifying", "sealing", "succeeded"]


@pytest.mark.parametrize(("state", "event", "step"), STEPS)
def test_ending_frees_target_and_lease_and_nothing_else_frees_the_target(state, event, step) -> None:
    ends = step.state in ENDED and state not in ENDED
    assert ("free_target" in step.instructions) == ends
    assert ("stamp_end" in step.instructions) == ends
    if ends and state in LEASED:
        assert "drop_lease" in step.instructions


@pytest.mark.parametrize(("state", "event", "step"), STEPS)
def test_a_job_has_a_lease_in_the_states_in_which_an_executor_works_on_it_unless_it_waits_to_be_cleaned_up(state, event, step) -> None:
    if step.state in LEASED and state not in LEASED:
        assert "take_lease" in step.instructions or step.state == "canceling"
    if step.state not in LEASED and state in LEASED:
        assert "drop_lease" in step.instructions


@pytest.mark.parametrize("state", JOB_STATES)
def test_every_state_can_be_reached_from_queued_and_left_for_an_end(state: str) -> None:
    arrows = {(before, step.state) for before, _, step in STEPS}
    assert state in _reachable("queued", arrows)
    assert _reachable(state, arrows) & ENDED


def test_an_illegal_transition_tells_the_whole_story() -> None:
    with pytest.raises(IllegalTransition, match="job 7 is succeeded: cannot retry it") as caught:
        job_step("succeeded", "retry", job="job 7")
    assert caught.value.facts == ("retry is for jobs that are failed or canceled",)
    assert caught.value.details == {"job": "job 7", "state": "succeeded", "event": "retry", "possible": []}


def test_a_cancel_that_comes_after_the_target_was_published_does_not_hide_the_success() -> None:
    assert job_step("canceling", "succeed").state == "succeeded"


def test_a_task_that_is_done_stays_done_whatever_a_late_worker_says() -> None:
    assert [task_step("done", event) for event in ("start", "finish", "fail")] == ["done", "done", "done"]


def _reachable(start: str, arrows: set[tuple[str, str]]) -> set[str]:
    found, frontier = {start}, {start}
    while frontier:
        frontier = {after for before, after in arrows if before in frontier} - found
        found |= frontier
    return found
