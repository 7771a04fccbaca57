"""A task as a file of its own: JSON with just the files and tensors it touches, so that a worker reads nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from convsvc.encodings.base import Form, Grid
from convsvc.errors import PlaceUnfit
from convsvc.plan.records import (
    Coded,
    Fill,
    Operand,
    Place,
    PlannedFile,
    PlannedTensor,
    Task,
    Transfer,
    Transform,
    View,
)

# Grows with every change of what is written here, or of what its numbers mean: who reads it does so exactly as it was meant.
TASK_VERSION = 4


@dataclass(frozen=True, slots=True)
class Side:
    """Files and tensors of the source, or of the target. Relative paths lie in the staging directory.

    `numbers[i]` is the i-th tensor's number in the plan.
    """

    files: tuple[PlannedFile, ...]
    tensors: tuple[PlannedTensor, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A task whose places number the tensors of its own two sides. `hashed`: target files that it writes whole are hashed on the way."""

    fingerprint: str
    task: Task
    source: Side
    target: Side
    hashed: bool = False


def extract_task(
    task: Task,
    fingerprint: str,
    source: tuple[Sequence[PlannedFile], Sequence[PlannedTensor]],
    target: tuple[Sequence[PlannedFile], Sequence[PlannedTensor]],
    hashed: bool = False,
) -> TaskFile:
    """The task with only those files and tensors of the plan's tables that it touches, numbered anew. Pure."""
    taken, wanted = _Picker(*source), _Picker(*target)
    transfers = tuple(_renumbered(transfer, taken.pick, wanted.pick) for transfer in task.transfers)
    written = wanted.side(taken.pick)
    return TaskFile(fingerprint, replace(task, transfers=transfers), taken.side(), written, hashed)


def dump_task(task_file: TaskFile) -> bytes:
    """Compact JSON; `load_task` makes the same value of it."""
    task = task_file.task
    data = {
        "version": TASK_VERSION,
        "fingerprint": task_file.fingerprint,
        "task": [task.id, task.name, task.bytes_in, task.bytes_out],
        "transfers": [_dump_transfer(transfer) for transfer in task.transfers],
        "source": _dump_side(task_file.source),
        "target": _dump_side(task_file.target),
        **({"hashed": True} if task_file.hashed else {}),
    }
    return json.dumps(data, separators=(",", ":")).encode()


def load_task(data: bytes) -> TaskFile:
    """The task that `dump_task` wrote. Raises PlaceUnfit for a file of another version: another machine may have that."""
    raw = json.loads(data)
    if raw.get("version") != TASK_VERSION:
        raise PlaceUnfit(
            f"{os.uname().nodename} reads task files of version {TASK_VERSION}, this one is of version {raw.get('version', 'none')}",
            do="bring all machines to one version of convsvc; until then tasks go to those that have the executor's",
        )
    number, name, bytes_in, bytes_out = raw["task"]
    task = Task(number, name, tuple(_load_transfer(item) for item in raw["transfers"]), bytes_in, bytes_out)
    return TaskFile(raw["fingerprint"], task, _load_side(raw["source"]), _load_side(raw["target"]), raw.get("hashed", False))


class _Picker:
    """Gives tensors and their files new, dense numbers in the order in which they are asked for."""

    def __init__(self, files: Sequence[PlannedFile], tensors: Sequence[PlannedTensor]) -> None:
        self._files, self._tensors = files, tensors
        self._new_files: dict[int, int] = {}
        self._new_tensors: dict[int, int] = {}

    def pick(self, tensor: int) -> int:
        if tensor not in self._new_tensors:
            picked = self._tensors[tensor]
            self._new_files.setdefault(picked.file, len(self._new_files))
            self._new_tensors[tensor] = len(self._new_tensors)
            for piece in picked.coded.pieces if picked.coded else ():
                self.pick(piece)
        return self._new_tensors[tensor]

    def side(self, other: Callable[[int], int] | None = None) -> Side:
        """What was picked. `other` picks of the other side's tensors those with which these are encoded, if these are written."""
        tensors = [self._renumbered(self._tensors[number], other) for number in self._new_tensors]
        return Side(
            tuple(self._files[number] for number in self._new_files),
            tuple(tensors),
            tuple(self._new_tensors),
        )

    def _renumbered(self, t: PlannedTensor, other: Callable[[int], int] | None) -> PlannedTensor:
        coded = self._new_code(t.coded, other)
        return PlannedTensor(self._new_files[t.file], t.name, t.dtype, t.shape, t.file_offset, t.size_bytes, coded)

    def _new_code(self, coded: Coded | None, other: Callable[[int], int] | None) -> Coded | None:
        if coded is None:
            return None
        own = tuple([Place(other(tensor), offset) for tensor, offset in coded.own]) if other else ()
        return coded._replace(pieces=tuple([self._new_tensors[piece] for piece in coded.pieces]), own=own)


def _renumbered(transfer: Transfer, source: Callable[[int], int], target: Callable[[int], int]) -> Transfer:
    transform = transfer.transform
    if transform is not None:
        operands = tuple(
            replace(item, views=_with_tensors(item.views, source), checks=_with_tensors(item.checks, source)) for item in transform.operands
        )
        transform = replace(transform, operands=operands)
    return replace(
        transfer,
        reads=_with_tensors(transfer.reads, source),
        writes=_with_tensors(transfer.writes, target),
        fills=tuple(replace(fill, tensor=target(fill.tensor)) for fill in transfer.fills),
        transform=transform,
        checks=_with_tensors(transfer.checks, source),
        padding=tuple(replace(run, tensor=source(run.tensor)) for run in transfer.padding),
    )


def _with_tensors(views: tuple[View, ...], number: Callable[[int], int]) -> tuple[View, ...]:
    # Constructors, as `replace` takes three times as long, and a plan's tasks have a million places.
    return tuple([View(v.starts, v.stops, v.strides, tuple([Place(number(tensor), offset) for tensor, offset in v.places])) for v in views])


def _dump_side(side: Side) -> dict[str, Any]:
    forms = {form: at for at, form in enumerate(dict.fromkeys([t.coded.form for t in side.tensors if t.coded]))}
    return {
        "files": [[f.path, f.size_bytes, f.format, f.mtime_ns] for f in side.files],
        "forms": [astuple(form) for form in forms],
        "tensors": [_dump_tensor(tensor, forms) for tensor in side.tensors],
        "numbers": list(side.numbers),
    }


def _load_side(raw: dict[str, Any]) -> Side:
    forms = [_load_form(*item) for item in raw["forms"]]
    tensors = tuple(_load_tensor(item, forms) for item in raw["tensors"])
    return Side(tuple(PlannedFile(*item) for item in raw["files"]), tensors, tuple(raw["numbers"]))


def _load_form(kind: str, shape: list[int], grids: list[list[Any]], shared_by: str, *rest: Any) -> Form:
    group, turned, loose, params = rest
    return Form(kind, tuple(shape), tuple([Grid(*each) for each in grids]), shared_by, group, turned, loose, tuple(map(tuple, params)))


def _dump_tensor(t: PlannedTensor, forms: Mapping[Form, int]) -> list[Any]:
    coded = [] if t.coded is None else [[forms[t.coded.form], t.coded.pieces, t.coded.dtype, t.coded.own]]
    return [t.file, t.name, t.dtype, list(t.shape), t.file_offset, t.size_bytes, *coded]


def _load_tensor(raw: list[Any], forms: Sequence[Form]) -> PlannedTensor:
    file, name, dtype, shape, file_offset, size_bytes, *coded = raw
    made = [Coded(forms[form], tuple(pieces), values, tuple([Place(*each) for each in own])) for form, pieces, values, own in coded]
    return PlannedTensor(file, name, dtype, tuple(shape), file_offset, size_bytes, made[0] if made else None)


def _dump_transfer(t: Transfer) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "name": t.name,
        "sizes": t.sizes,
        "order": t.order,
        # Views and places are tuples, which are lists in JSON.
        "reads": t.reads,
        "writes": t.writes,
    }
    if t.fills:
        raw["fills"] = [[fill.tensor, fill.offset, fill.count] for fill in t.fills]
    if t.transform:
        operands = [[item.name, item.sizes, item.views, item.checks] for item in t.transform.operands]
        raw["transform"] = [t.transform.kind, t.transform.params, operands]
    if t.checks:
        raw["checks"] = t.checks
    if t.padding:
        raw["padding"] = [[run.tensor, run.offset, run.count] for run in t.padding]
    if t.remedy:
        raw["remedy"] = t.remedy
    if t.unchecked:
        raw["unchecked"] = t.unchecked
    return raw


def _load_transfer(raw: dict[str, Any]) -> Transfer:
    transform = None
    if "transform" in raw:
        kind, params, operands = raw["transform"]
        loaded = tuple(Operand(name, tuple(sizes), _load_views(views), _load_views(checks)) for name, sizes, views, checks in operands)
        transform = Transform(kind, params, loaded)
    return Transfer(
        raw["name"],
        tuple(raw["sizes"]),
        tuple(raw["order"]),
        _load_views(raw["reads"]),
        _load_views(raw["writes"]),
        tuple(Fill(*item) for item in raw.get("fills", ())),
        transform,
        _load_views(raw.get("checks", ())),
        tuple(Fill(*item) for item in raw.get("padding", ())),
        raw.get("remedy", ""),
        raw.get("unchecked", ""),
    )


def _load_views(raw: Iterable[list[Any]]) -> tuple[View, ...]:
    return tuple([_load_view(item) for item in raw])


def _load_view(raw: list[Any]) -> View:
    starts, stops, strides, places = raw
    return View(tuple(starts), tuple(stops), tuple(strides), tuple([Place(*place) for place in places]))
