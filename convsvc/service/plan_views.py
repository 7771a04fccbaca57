"""What the service shows of a plan. Apart from `views`, as `convsvc submit` does without: a frozen, slotted dataclass takes 1 ms to make.

Sizes in bytes. Standard library only, so that the client stays light.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PlanFiles:
    """What will be read; a plan that reads a tensor twice counts it twice."""

    files: int
    tensors: int
    bytes_read: int


@dataclass(frozen=True, slots=True)
class PlanTarget:
    """What will be written."""

    path: str
    files: int
    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PlanNeeds:
    """`projected_bytes` is the most memory that one worker takes, page cache apart; the others are the target's room on its file system."""

    projected_bytes: int
    free_bytes_needed: int
    free_bytes_available: int


@dataclass(frozen=True, slots=True)
class PlanNote:
    """What a user should know. `kind`: lost, filled, changed, ignored, carried or advice."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class PlanProblem:
    """What would make the job fail if it ran now. `type` is the error's, as in a job's `error`; `do` says what to do about it."""

    type: str
    message: str
    facts: list[str] = field(default_factory=list)
    do: str | None = None


@dataclass(frozen=True, slots=True)
class PlanView:
    """What a job would do. `balance` is the largest task's bytes over the median's: how long the last worker may work alone.

    `facts` is what was found out of the model (sizes, layers); `notes` say what is lost, filled, changed or ignored and why.
    `problems` are what would make the job fail as things are: its target exists, is busy, cannot be written, or has no room.
    Two plans with the same `fingerprint` write the same bytes to the same places.
    """

    model_type: str
    fingerprint: str
    source: PlanFiles
    target: PlanTarget
    tasks: int
    transfers: int
    largest_task_bytes: int
    balance: float
    needs: PlanNeeds
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[PlanNote] = field(default_factory=list)
    problems: list[PlanProblem] = field(default_factory=list)
