"""Finite numbers that became infinite, counted as the threads of a task meet them; and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from convsvc.errors import PlanError
from convsvc.execute.task_files import TaskFile
from convsvc.notes import Note
from convsvc.plan.records import PlannedFile, PlannedTensor

SHOWN = 12


@dataclass(slots=True)
class Overflows:
    """How many values of each of the source's tensors overflowed. Reading and copying threads add to it."""

    counts: Counter[int] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    def add(self, tensor: int, count: int) -> None:
        if count:
            with self._lock:
                self.counts[tensor] += count


def judge_overflows(overflows: Overflows, task_file: TaskFile, allowed: bool) -> tuple[Note, ...]:
    """A note if there are any; none where there are none. Raises PlanError naming tensors and counts where the job does not allow them."""
    if not overflows.counts:
        return ()
    what = f"{sum(overflows.counts.values())} finite values become infinite in {_targets(task_file.target.tensors)}"
    facts = _facts(overflows, task_file.source.tensors, task_file.source.files)
    if not allowed:
        raise PlanError(
            f"{task_file.task.name}: {what}",
            facts=facts,
            do='choose options.dtype "bf16" or "fp32", or set options.on_overflow to "note" to write them as infinite',
            details={"overflows": {task_file.source.tensors[tensor].name: count for tensor, count in overflows.counts.items()}},
        )
    return (Note("lost", f"{what}: {'; '.join(facts)}"),)


def _facts(overflows: Overflows, tensors: Sequence[PlannedTensor], files: Sequence[PlannedFile]) -> list[str]:
    counts = overflows.counts.most_common()
    met = [(tensors[number], count) for number, count in counts]
    facts = [f"{tensor.name} ({tensor.dtype}, in {files[tensor.file].path}): {count}" for tensor, count in met]
    return facts if len(facts) <= SHOWN else [*facts[:SHOWN], f"and {len(facts) - SHOWN} more tensors"]


def _targets(tensors: Sequence[PlannedTensor]) -> str:
    return " and ".join(sorted({tensor.dtype for tensor in tensors}))
