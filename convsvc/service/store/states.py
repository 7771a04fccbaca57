"""The states of a job and of a task, and every arrow between them. Pure: an event in, the new state and instructions out.

    queued -> planning -> running -> sealing <-> verifying -> succeeded
       |          |___________|_________|____________|------> failed
       |                      | cancel
       '--> canceled <---- canceling            failed, canceled -- retry --> queued

A job that comes after others is blocked until all of those have succeeded (unblock: queued); it fails once one of them has not. Retried
while one of them goes on, it is blocked again (block).

A job is canceled once nothing of it is left on storage. Where something may be, that is an executor's work: `discard` leads a job that
waits, or has failed, to canceling without a lease, and the next executor takes it up, as it does after one that died or drained.

The store applies the instructions in the transaction in which it writes the new state; nobody else changes a state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from convsvc.service.errors import IllegalTransition

JobState = Literal["queued", "blocked", "planning", "running", "sealing", "verifying", "canceling", "succeeded", "failed", "canceled"]
JobEvent = Literal[
    "claim", "reclaim", "planned", "seal", "verify", "succeed", "fail", "cancel", "stop", "release", "retry", "discard", "block", "unblock"
]
TaskState = Literal["pending", "running", "done", "failed"]
TaskEvent = Literal["start", "finish", "fail"]
Instruction = Literal["take_lease", "drop_lease", "hold_target", "free_target", "stamp_end", "new_run"]

JOB_STATES: tuple[JobState, ...] = get_args(JobState)
WORKING: frozenset[str] = frozenset({"planning", "running", "sealing", "verifying"})
LEASED: frozenset[str] = WORKING | {"canceling"}
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "canceled"})

_END: tuple[Instruction, ...] = ("drop_lease", "free_target", "stamp_end")
_WORKING = "planning running sealing verifying"

# event, the states it may meet, the state it leads to, what the store does with it
_JOB_ARROWS: tuple[tuple[JobEvent, str, JobState, tuple[Instruction, ...]], ...] = (
    ("claim", "queued", "planning", ("take_lease",)),
    ("reclaim", _WORKING, "planning", ("take_lease",)),  # its executor died: planned again, then resumed from the staging directory
    ("reclaim", "canceling", "canceling", ("take_lease",)),  # what its executor has staged is still there
    ("planned", "planning", "running", ()),
    ("planned", "running", "running", ()),  # said again, as the answer got lost
    ("planned", "canceling", "canceling", ()),
    ("seal", "running sealing verifying", "sealing", ()),
    ("seal", "canceling", "canceling", ()),
    ("verify", "running sealing verifying", "verifying", ()),
    ("verify", "canceling", "canceling", ()),
    # From canceling: the cancel came after the target was in place. From planning: an executor died just after it was.
    ("succeed", f"{_WORKING} canceling", "succeeded", _END),
    ("fail", f"{_WORKING} canceling", "failed", _END),
    ("cancel", "queued", "canceled", _END),
    ("cancel", _WORKING, "canceling", ()),
    ("cancel", "canceling", "canceling", ()),
    ("cancel", "canceled", "canceled", ()),
    ("stop", "canceling", "canceled", _END),
    ("release", _WORKING, "queued", ("drop_lease",)),  # the executor drains: the job keeps its target and is resumed later
    ("release", "canceling", "canceling", ("drop_lease",)),
    ("unblock", "blocked", "queued", ()),
    ("fail", "blocked", "failed", _END),
    ("cancel", "blocked", "canceled", _END),
    ("block", "failed canceled", "blocked", ("hold_target", "new_run")),
    ("discard", "queued", "canceling", ()),
    ("discard", "failed", "canceling", ("hold_target",)),
    ("retry", "failed canceled", "queued", ("hold_target", "new_run")),
)

# A finished task may be reported again (a call is at-least-once), and one may finish unstarted (resumed from its completion mark).
_TASK_ARROWS: tuple[tuple[TaskEvent, str, TaskState], ...] = (
    ("start", "pending running failed", "running"),
    ("finish", "pending running failed done", "done"),
    ("fail", "pending running failed", "failed"),
    ("start", "done", "done"),
    ("fail", "done", "done"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """What an event leads to: the new state, and what else is done in the same transaction."""

    state: JobState
    instructions: tuple[Instruction, ...] = ()


_JOB_STEPS = {(event, state): Step(after, todo) for event, states, after, todo in _JOB_ARROWS for state in states.split()}
_TASK_STEPS = {(event, state): after for event, states, after in _TASK_ARROWS for state in states.split()}


def job_step(state: str, event: JobEvent, *, job: str = "the job") -> Step:
    """Where `event` leads a job that is in `state`.

    >>> job_step("queued", "claim")
    Step(state='planning', instructions=('take_lease',))

    Raises IllegalTransition, which says what could be done instead.
    """
    step = _JOB_STEPS.get((event, state))
    if step is None:
        allowed = sorted({states for name, states, _, _ in _JOB_ARROWS if name == event})
        raise IllegalTransition(
            f"{job} is {state}: cannot {event} it",
            facts=[f"{event} is for jobs that are {' or '.join(' '.join(allowed).split())}"],
            details={"job": job, "state": state, "event": event, "possible": possible_events(state)},
        )
    return step


def task_step(state: str, event: TaskEvent) -> TaskState:
    """Where `event` leads a task that is in `state`; a task that is done stays done.

    >>> task_step("pending", "start")
    'running'
    """
    return _TASK_STEPS[event, state]


def possible_events(state: str) -> list[str]:
    """The events that a job in `state` may meet.

    >>> possible_events("failed")
    ['block', 'discard', 'retry']
    """
    return sorted(event for event, before in _JOB_STEPS if before == state)
