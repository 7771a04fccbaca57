"""How much memory a step may take, and what an element takes of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from convsvc.plan.records import PlannedTensor
from convsvc.tensors.dtypes import size_of


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of buffers: `step_bytes` a step, input and output together; `wide_bytes` the one side that a wide tile's steps share.

    A tile whose runs are shorter than `short_run_bytes` is made wide, if its runs then are twice as long at least.
    """

    step_bytes: int
    wide_bytes: int = 0
    short_run_bytes: int = 64 << 10


def buffer_bytes(stored: PlannedTensor) -> float:
    """Bytes that an element takes in the input buffer: of what is quantised its value and what that is made of."""
    return size_of(stored.value_dtype) + (0 if stored.coded is None else stored.coded.form.bits / 8)
