"""Finite numbers that became infinite, and scales that are none, as the threads of a task meet them; and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from convsvc.errors import PlanError, SourceError
from convsvc.execute.task_files import TaskFile
from convsvc.notes import Note
from convsvc.plan.records import PlannedFile, PlannedTensor

SHOWN = 12


@dataclass(slots=True)
class Overflows:
    """How many values of each of the source's tensors overflowed. Reading and copying threads add to it.

    `unscaled`: of which tensors, and which piece of them, scales were met that are infinite or no numbers.
    """

    counts: Counter[int] = field(default_factory=Counter)
    unscaled: dict[tuple[int, int], None] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def add(self, tensor: int, count: int) -> None:
        if count:
            with self._lock:
                self.counts[tensor] += count

    def met(self, tensor: int, pieces: Iterable[int]) -> None:
        """Notes the pieces of a tensor that have scales which are no finite numbers."""
        with self._lock:
            self.unscaled.update(dict.fromkeys((tensor, piece) for piece in pieces))


def judge_overflows(overflows: Overflows, task_file: TaskFile, allowed: bool) -> tuple[Note, ...]:
    """Notes if there are any; none where there are none. Raises PlanError, SourceError naming tensors where the job does not allow them."""
    notes = _judge_scales(overflows, task_file, allowed)
    if not overflows.counts:
        return notes
    what = f"{sum(overflows.counts.values())} finite values become infinite in {_targets(task_file.target.tensors)}"
    facts = _facts(overflows, task_file.source.tensors, task_file.source.files)
    if not allowed:
        raise PlanError(
            f"{task_file.task.name}: {what}",
            facts=facts,
            do='choose options.dtype "bf16" or "fp32", or set options.on_overflow to "note" to write them as infinite',
            details={"overflows": {task_file.source.tensors[tensor].name: count for tensor, count in overflows.counts.items()}},
        )
    return (*notes, Note("lost", f"{what}: {'; '.join(facts)}"))


def _judge_scales(overflows: Overflows, task_file: TaskFile, allowed: bool) -> tuple[Note, ...]:
    """What a scale that is infinite or no number scales is none either: no release means that."""
    if not overflows.unscaled:
        return ()
    tensors = task_file.source.tensors
    names = [_scale_of(tensors, *each) for each in overflows.unscaled]
    what = f"{names[0]} has scales that are infinite or no numbers"
    if not allowed:
        raise SourceError(
            f"{task_file.task.name}: {what}",
            facts=[f"{name}: expected finite numbers (an exponent below 255)" for name in names[:SHOWN]],
            do='fetch the checkpoint again; or set options.on_overflow to "note" to write what they give: weights that are no numbers',
            details={"scales": names},
        )
    more = f", so have {len(names) - 1} more" if len(names) > 1 else ""
    return (Note("lost", f"{what}{more}: what they scale is written so, too"),)


def _scale_of(tensors: Sequence[PlannedTensor], number: int, piece: int) -> str:
    coded = tensors[number].coded
    return tensors[number].name if coded is None or not piece else tensors[coded.pieces[piece - 1]].name


def _facts(overflows: Overflows, tensors: Sequence[PlannedTensor], files: Sequence[PlannedFile]) -> list[str]:
    counts = overflows.counts.most_common()
    met = [(tensors[number], count) for number, count in counts]
    facts = [f"{tensor.name} ({tensor.dtype}, in {files[tensor.file].path}): {count}" for tensor, count in met]
    return facts if len(facts) <= SHOWN else [*facts[:SHOWN], f"and {len(facts) - SHOWN} more tensors"]


def _targets(tensors: Sequence[PlannedTensor]) -> str:
    return " and ".join(sorted({tensor.dtype for tensor in tensors}))
