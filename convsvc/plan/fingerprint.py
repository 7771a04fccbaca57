"""A plan's fingerprint: a digest of every number and every word that decides what is written where, and by which task. Pure.

A task that is marked as done is not done again, so whoever goes on with a staging directory must mean the same by it: another version that
plans other numbers may not.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from operator import attrgetter
from typing import Any

from convsvc.dialects.output import Output, SideFile
from convsvc.formats.base import Skeleton
from convsvc.plan.records import PlannedFile, PlannedTensor, Task, Transfer
from convsvc.spec import Job, dump_job

# What does not change what is written: how it is verified, what happens where something is in the way, what is compared, what is said.
APART = ("verify", "on_exists", "on_loss", "check_copies", "card", "picture")


def fingerprint(
    job: Job,
    family: str,
    source: tuple[Sequence[PlannedFile], Sequence[PlannedTensor]],
    output: Output,
    targets: Sequence[PlannedTensor],
    tasks: Sequence[Task],
) -> str:
    """The digest, in hex. What the source's files hold follows from their sizes and times, as execution refuses others."""
    dumped = dump_job(job)
    options = {name: value for name, value in dumped["options"].items() if name not in APART}
    words = [version("convsvc"), family, dumped["source"], dumped["target"], options, list(map(_side, output.side_files))]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for file in source[0]:
        digest.update(f"{file.path}\0{file.size_bytes}\0{file.mtime_ns}\n".encode())
    digests = list(map(_digest_of, output.skeletons))
    for new in output.files:
        digest.update(f"{new.path}\0{digests[new.skeleton]}\n".encode())
    for table in (source[1], targets):
        # What a source would be encoded with on the way back writes nothing.
        for part in _table(table, own=table is targets):
            digest.update(part)
    for task in tasks:
        for part in _task(task):
            digest.update(part)
    return digest.hexdigest()


def _side(file: SideFile) -> list[Any]:
    return [
        file.path,
        None if file.text is None else hashlib.sha256(file.data).hexdigest(),
        file.copy_from,
        file.size_bytes,
        file.mtime_ns,
        file.last,
        *([] if file.hashes_of is None else [file.hashes_of]),
    ]


def _digest_of(skeleton: Skeleton) -> str:
    digest = hashlib.sha256(str(skeleton.size_bytes).encode())
    for tensor in skeleton.tensors:
        digest.update(f"{tensor.name}\0{tensor.dtype}\0{tensor.shape}\0{tensor.file_offset}\n".encode())
    return digest.hexdigest()


def _table(tensors: Sequence[PlannedTensor], own: bool) -> Iterator[bytes | array[int]]:
    """Where each of the tensors that places number lies, and how its bytes are values."""
    yield array("q", map(attrgetter("file"), tensors))
    yield array("q", map(attrgetter("file_offset"), tensors))
    yield "\0".join(map(attrgetter("dtype"), tensors)).encode()
    coded = [(number, tensor.coded) for number, tensor in enumerate(tensors) if tensor.coded is not None]
    # A form's own hash is that of many numbers, and a million tensors share a few forms.
    forms = {id(each.form): each.form for _, each in coded}
    numbers = {form: at for at, form in enumerate(dict.fromkeys(forms.values()))}
    number_of = {key: numbers[form] for key, form in forms.items()}
    yield repr(
        (list(numbers), [(number, number_of[id(each.form)], each.pieces, each.dtype, each.own if own else ()) for number, each in coded])
    ).encode()


def _task(task: Task) -> Iterator[bytes | array[int]]:
    """All that a task moves; what it compares on the way changes nothing."""
    words = [(t.name, t.sizes, t.order, len(t.reads), len(t.writes), t.fills, _transform(t)) for t in task.transfers]
    yield repr((task.name, words)).encode()
    # A view is nothing but numbers: Python's own hash of them is the same in every process, and ten times as fast as their bytes.
    yield array("q", [hash(view) for transfer in task.transfers for view in (*transfer.reads, *transfer.writes)])


def _transform(transfer: Transfer) -> tuple[Any, ...]:
    change = transfer.transform
    return () if change is None else (change.kind, change.params, [(item.name, item.sizes, item.views) for item in change.operands])
