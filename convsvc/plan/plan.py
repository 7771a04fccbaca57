"""A plan: everything a conversion will do, decided and proved before the first byte is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from convsvc.dialects.output import SideFile
from convsvc.formats.base import Skeleton
from convsvc.notes import Note
from convsvc.plan.records import PlannedFile, PlannedTensor, Task
from convsvc.roots import ANYWHERE, Roots


@dataclass(frozen=True, slots=True)
class Plan:
    """The conversion of one job.

    `job` is the job's JSON; `facts` what was found out (family, sizes, layers), for people; `notes` what is left out, ignored
    or filled and why, by kind. The new file `target_files[i]` is `skeletons[skeleton_of[i]]`: many are alike. Tensors refer to files by
    number. What was planned within `roots` is carried out within them. `axes` are the logical tensors' axes, by name. `source_digests` are
    of the source files' headers. Two plans with the same `fingerprint` write the same bytes to the same places.
    """

    job: dict[str, Any]
    model_type: str
    fingerprint: str
    source_files: tuple[PlannedFile, ...]
    source_tensors: tuple[PlannedTensor, ...]
    target_files: tuple[PlannedFile, ...]
    target_tensors: tuple[PlannedTensor, ...]
    skeletons: tuple[Skeleton, ...]
    skeleton_of: tuple[int, ...]
    side_files: tuple[SideFile, ...]
    tasks: tuple[Task, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    roots: Roots = ANYWHERE
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source_digests: tuple[str, ...] = ()

    @property
    def target_path(self) -> str:
        return str(self.job["target"]["path"])

    def new_files(self) -> Iterator[tuple[PlannedFile, Skeleton]]:
        """Every file of the target, with its skeleton."""
        return ((file, self.skeletons[kind]) for file, kind in zip(self.target_files, self.skeleton_of, strict=True))

    @property
    def is_hashed(self) -> bool:
        """Whether a side file says the hashes of the target's files."""
        return any(side.hashes_of is not None for side in self.side_files)

    @property
    def bytes_in(self) -> int:
        """Source bytes that will be read."""
        return sum(task.bytes_in for task in self.tasks)

    @property
    def bytes_out(self) -> int:
        """Bytes of all target files."""
        return sum(file.size_bytes for file in self.target_files)

    @property
    def balance(self) -> float:
        """The largest task's bytes, in and out, over the median's: how long the last worker may work alone."""
        sizes = self._task_sizes()
        return round(max(sizes) / max(1.0, median(sizes)), 2) if sizes else 1.0

    def _task_sizes(self) -> list[int]:
        return [task.bytes_in + task.bytes_out for task in self.tasks]

    def summary(self) -> dict[str, Any]:
        """The plan in a few lines of JSON: what `convsvc plan` and `POST /plans` answer."""
        return {
            "model_type": self.model_type,
            "fingerprint": self.fingerprint,
            "source": {"files": len(self.source_files), "tensors": len(self.source_tensors), "bytes_read": self.bytes_in},
            "target": {
                "path": self.target_path,
                "files": len(self.target_files),
                "tensors": len(self.target_tensors),
                "bytes": self.bytes_out,
            },
            "tasks": len(self.tasks),
            "transfers": sum(len(task.transfers) for task in self.tasks),
            "largest_task_bytes": max(self._task_sizes(), default=0),
            "balance": self.balance,
            "facts": self.facts,
            "notes": [note.as_dict() for note in self.notes],
        }


__all__ = ["Plan", "SideFile"]
