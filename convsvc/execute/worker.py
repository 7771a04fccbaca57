"""What a worker does: one task, from its file in the staging directory to its completion mark."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic
from typing import Any

from convsvc import __version__
from convsvc.errors import Canceled, ConvsvcError, PlaceUnfit, StorageError, TargetError
from convsvc.execute.check.comparing import Comparison
from convsvc.execute.check.copies import Checker, Difference, source_differs, target_differs
from convsvc.execute.check.digests import Digests, Region
from convsvc.execute.check.hashing import FileHashes
from convsvc.execute.check.overflows import judge_overflows
from convsvc.execute.check.padding import check_padding, check_zeros
from convsvc.execute.check.verifying import verify_regions
from convsvc.execute.disk.io import Reader, Writer, read_whole, write_atomically
from convsvc.execute.pipeline import Tiles
from convsvc.execute.staging.fences import check_fence
from convsvc.execute.staging.marks import CANCEL, HASHES, mark_path
from convsvc.execute.staging.moved import Moved
from convsvc.execute.staging.task_pack import read_task
from convsvc.execute.steps.budgets import Budget
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.records import Step, Tensors
from convsvc.execute.task_files import TaskFile, load_task
from convsvc.formats.zip.crc import crc32, crc32_zeros
from convsvc.notes import Note
from convsvc.roots import ANYWHERE, Roots
from convsvc.tensors.dtypes import size_of

_log = logging.getLogger(__name__)

# tiles.SLOTS steps and tiles.WIDE_SLOTS wide tiles are under way at once.
BUDGET = Budget(step_bytes=24 << 20, wide_bytes=112 << 20)


@dataclass(frozen=True, slots=True)
class Done:
    """What a task did; `mark` is what its completion mark says, beside the notes. `bytes_direct` is of those read and written together."""

    bytes_read: int
    bytes_written: int
    bytes_direct: int
    mark: dict[str, Any]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Workplace:
    """The staging directory a task runs in, held open, the attempt it belongs to, and the fence that held when it was sent.

    Without a fence the directory is not a staging directory but, say, a published target which is compared with its source. What lies
    elsewhere must be in the roots.
    """

    directory: int
    attempt: str
    fence: int | None = None
    roots: Roots = ANYWHERE
    allow_overflow: bool = False
    allow_loss: bool = False

    def check_wanted(self) -> None:
        """Raises Canceled when somebody asked the job to stop, StorageError when the staging directory is gone, Superseded when a
        later run has it or it is sealed: then the fence is older than the directory's.
        """
        try:
            os.stat(CANCEL, dir_fd=self.directory)
        except FileNotFoundError:
            self._check_there()
            if self.fence is not None:
                check_fence(self.directory, self.fence)
            return
        raise Canceled("the job was canceled")

    def _check_there(self) -> None:
        if os.fstat(self.directory).st_nlink == 0:
            raise StorageError("the staging directory is gone", do="was the job canceled or run again?")


def run_task(payload: dict[str, Any]) -> dict[str, Any]:
    """Does the task `payload["task"]` of the staging directory `payload["staging"]` and leaves its completion mark.

    `payload["mode"]`: "write" moves the bytes; "verify" reads back what was written and compares it with the digests taken
    while writing; "compare" computes what would be written and compares it with what lies there. `payload["attempt"]` tells attempts
    apart, `payload["at"]` is where the task lies in the pack of all (looked up without it),
    `payload["fence"]` is the staging directory's when the task was sent, `payload["owner"]` its user; source files must lie in
    `payload["roots"]`; `payload["on_overflow"]` and `payload["on_loss"]` are the job's options. May run twice, also at once, with the
    same effect. Returns counters, and notes where there are any. Raises ConvsvcError; Superseded if the fence is older than the
    directory's.
    """
    began = monotonic()
    _check_version(payload)
    mode, number = str(payload["mode"]), int(payload["task"])
    with _workplace(payload) as place:
        place.check_wanted()
        task_file = load_task(read_task(place.directory, mode, number, payload.get("at")))
        done = MODES[mode](task_file, place)
        place.check_wanted()
        counters: dict[str, Any] = {"bytes_read": done.bytes_read, "bytes_written": done.bytes_written, "seconds": monotonic() - began}
        counters |= {"notes": [note.as_dict() for note in done.notes]} if done.notes else {}
        mark = json.dumps({**counters, **done.mark}, separators=(",", ":")).encode()
        write_atomically(place.directory, mark_path(mode, number), mark, place.attempt)
        _log.info("%s", _summary(mode, task_file.task.name, done, monotonic() - began))
    return {"task": number, "mode": mode, **counters}


def _check_version(payload: dict[str, Any]) -> None:
    """Raises PlaceUnfit where this program is not the one that planned: what a task's numbers mean may have changed in between."""
    wanted = payload.get("version", __version__)
    if wanted != __version__:
        raise PlaceUnfit(
            f"{os.uname().nodename} runs convsvc {__version__}, the job was planned by {wanted}",
            do="bring all machines to one version; until then tasks go to those that have it",
        )
    if payload["mode"] not in MODES:
        raise PlaceUnfit(
            f"{os.uname().nodename} runs convsvc {__version__}, which knows no task of mode {payload['mode']!r}",
            do="bring all machines to one version; until then tasks go to those that have it",
        )


def _summary(mode: str, name: str, done: Done, seconds: float) -> str:
    """What a task did, how fast, and where, as a line of its log. MB are of 1,000,000 bytes."""
    moved = done.bytes_read + done.bytes_written
    direct = 100 * done.bytes_direct // moved if moved else 0
    return (
        f"{mode} {name}: read {done.bytes_read / 1e6:.1f} MB, wrote {done.bytes_written / 1e6:.1f} MB in {seconds:.2f} s "
        f"({moved / 1e6 / max(seconds, 1e-3):.0f} MB/s, {direct} % around the page cache) on {os.uname().nodename}, process {os.getpid()}"
    )


def write_task(task_file: TaskFile, place: Workplace) -> Done:
    """Moves the task's bytes; returns when they are on stable storage. Raises SourceError where copies of what is read differ."""
    digests = Digests()
    reader = Reader(task_file.source.files, place.directory, place.roots)
    writer = Writer(task_file.target.files, place.directory, place.roots)
    tiles, moved = _tiles(task_file, reader, source_differs, place), Moved(place.directory, "write", task_file.task.id)
    hashes = FileHashes(task_file.target, digests, place.directory, place.roots) if task_file.hashed else None
    with closing(reader), closing(writer), hashes or nullcontext(), closing(tiles.produce(_steps(task_file))) as produced:
        _add_fills(task_file, digests, hashes)
        for write, data in produced:
            crcs = [crc32(data[start : start + write.size_bytes]) for start in range(0, len(data), write.size_bytes)]
            place.check_wanted()  # just before: computing the bytes may have taken long, if only because the process was stopped
            for at in write.places:
                for n, crc in enumerate(crcs):
                    region = Region(at.data_offset + n * write.step_bytes, write.size_bytes, crc)
                    digests.add(task_file.target.numbers[at.tensor], region)
            hashed = hashes.wrote(write, data) if hashes else None
            for at in write.places:
                tensor = task_file.target.tensors[at.tensor]
                writer.write_runs(tensor.file, tensor.file_offset + at.data_offset, data, write.size_bytes, write.step_bytes)
            if hashed:
                hashed.result()
            moved.note(writer.bytes_written)
        notes = _look_at_padding(task_file, reader, place)
        reader.check_unchanged()
        notes += (*judge_overflows(tiles.overflows, task_file, place.allow_overflow), *tiles.anew.notes())
        writer.sync()
        direct = reader.bytes_direct + writer.bytes_direct
        mark = {"regions": digests.as_json()} | ({HASHES: hashes.by_path()} if hashes else {})
        read = reader.bytes_read + (hashes.bytes_read if hashes else 0)
        return Done(read, writer.bytes_written, direct, mark, notes)


def verify_task(task_file: TaskFile, place: Workplace) -> Done:
    """Reads back what the task wrote; raises VerifyError where it is not what was written."""
    mark = json.loads(read_whole(place.directory, mark_path("write", task_file.task.id)))
    moved = Moved(place.directory, "verify", task_file.task.id)
    with closing(Reader(task_file.target.files, place.directory, place.roots)) as reader:

        def between() -> None:
            place.check_wanted()
            moved.note(reader.bytes_read)

        verify_regions(task_file.target, mark["regions"], reader, between)
        return Done(reader.bytes_read, 0, reader.bytes_direct, {})


def compare_task(task_file: TaskFile, place: Workplace) -> Done:
    """Computes what the task would write; raises VerifyError where something else lies there. Writes nothing.

    Its source is what was written: all copies of what it reads must be alike, and what belongs to no tensor must be zeros.
    """
    reader = Reader(task_file.source.files, place.directory, place.roots)
    there = Reader(task_file.target.files, place.directory, place.roots)
    tiles = _tiles(task_file, reader, target_differs, place)
    with closing(reader), closing(there), closing(tiles.produce(_steps(task_file))) as produced:
        comparison = Comparison(task_file.target, there)
        for write, data in produced:
            place.check_wanted()
            for at in write.places:
                for run, part in write.runs(at, data):
                    comparison.compare(run, part)
        for transfer in task_file.task.transfers:
            check_zeros(transfer, task_file.source, reader, place.check_wanted)
        return Done(reader.bytes_read + there.bytes_read, 0, reader.bytes_direct + there.bytes_direct, {})


MODES: dict[str, Callable[[TaskFile, Workplace], Done]] = {
    "write": write_task,
    "verify": verify_task,
    "compare": compare_task,
}


def _tiles(task_file: TaskFile, reader: Reader, differs: Callable[[Difference], ConvsvcError], place: Workplace) -> Tiles:
    return Tiles(reader, BUDGET, Checker(reader, task_file.source, differs, place.check_wanted))


def _steps(task_file: TaskFile) -> Iterator[Step]:
    tensors = Tensors(task_file.source.tensors, task_file.target.tensors)
    for transfer in task_file.task.transfers:
        yield from compile_steps(transfer, tensors, BUDGET)


def _look_at_padding(task_file: TaskFile, reader: Reader, place: Workplace) -> tuple[Note, ...]:
    """What the task's mark says besides digests: values that are lost with the source's padding, and copies that nobody looked at."""
    transfers = task_file.task.transfers
    lost = [note for each in transfers for note in check_padding(each, task_file.source, reader, place.allow_loss, place.check_wanted)]
    return (*lost, *(Note("ignored", text) for text in dict.fromkeys(each.unchecked for each in transfers) if text))


def _add_fills(task_file: TaskFile, digests: Digests, hashes: FileHashes | None) -> None:
    """Declared zeros are there already: the file was made of them. They only count for the digest, and the hash."""
    for fill in (fill for transfer in task_file.task.transfers for fill in transfer.fills):
        itemsize = size_of(task_file.target.tensors[fill.tensor].dtype)
        size_bytes = fill.count * itemsize
        region = Region(fill.offset * itemsize, size_bytes, crc32_zeros(size_bytes))
        digests.add(task_file.target.numbers[fill.tensor], region)
        if hashes:
            hashes.filled(fill.tensor, region.start, region.size_bytes)


@contextmanager
def _workplace(payload: dict[str, Any]) -> Iterator[Workplace]:
    """The roots and the staging directory's owner come with the call: whoever can replace the directory cannot change them."""
    staging, roots = str(payload["staging"]), Roots.from_json(payload.get("roots", []))
    try:
        directory = roots.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise TargetError(f"{staging} has become a link or a file", do="was it replaced?") from error
        raise PlaceUnfit(
            f"{staging} cannot be opened on {os.uname().nodename}: {error.strerror}",
            do="look whether the shared storage is mounted there, at the same path; or was the job canceled or run again?",
        ) from error
    try:
        owner = os.fstat(directory).st_uid
        if owner != payload.get("owner", owner):
            raise TargetError(f"{staging} is user {owner}'s, it was made by user {payload['owner']}", do="was it replaced?")
        allowed = [payload.get(name) == "note" for name in ("on_overflow", "on_loss")]
        yield Workplace(directory, str(payload.get("attempt", "0")), payload.get("fence"), roots, *allowed)
    finally:
        os.close(directory)
