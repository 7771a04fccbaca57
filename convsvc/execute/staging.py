"""The directory in which a target is made: beside the target, private, moved into place when it is whole.

    Staging.open(plan, on_exists)    takes the lock, makes every target file with its skeleton
    pending(mode)                    the tasks without a completion mark
    seal()                           checksums, side files, everything on stable storage
    publish() | discard()            the target appears whole, or nothing is left

Until `publish` nothing bears the target's name, and what would make the directory look like a checkpoint (the plan's `last`
files) is not there. A staging directory left by a crash, at whatever moment, is taken up again by `on_exists="resume"` with the same
plan: tasks that have a mark are not done again, and files that are sealed are not written again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from convsvc.errors import ConvsvcError, TargetError, TargetExists
from convsvc.execute import sealing
from convsvc.execute.digests import Digests
from convsvc.execute.faults import FULL, storage_error
from convsvc.execute.fences import raise_fence
from convsvc.execute.holders import Holder, this_process
from convsvc.execute.locks import Lock, take_lock
from convsvc.execute.marks import CANCEL, FENCE, FINGERPRINT, MARKS, PRIVATE, SEALED, TASKS, mark_path, task_path
from convsvc.execute.room import check_room
from convsvc.execute.task_files import dump_task, extract_task
from convsvc.plan.plan import Plan
from convsvc.plan.records import Task

OVERWRITING = ("overwrite", "resume-overwrite")
RESUMING = ("resume", "resume-overwrite")


class Staging:
    """The staging directory of one plan, locked. Made by `Staging.open`; a context manager which gives the lock back.

    `fence` is the number that holds now: calls carry it, and those that carry an older one write nothing more (see `fences`).
    """

    def __init__(self, plan: Plan, target: Path, lock: Lock) -> None:
        self.plan = plan
        self.target = target
        self.path = staging_path(target)
        self.fence = 0
        self._lock = lock
        self._reverse: tuple[Task, ...] = ()
        self._crcs: dict[int, int] = {}

    @classmethod
    def open(cls, plan: Plan, on_exists: str, holder: Holder | None = None) -> Staging:
        """The plan's staging directory, ready for its tasks.

        `on_exists`: "error" | "overwrite" | "resume", as in the job, or "resume-overwrite": go on with what an earlier run of a job that
        overwrites has left. `holder` is who opens it, by default this process; the fence is at least its claim's. Raises TargetExists,
        TargetBusy, NoSpace or TargetError; then the target is as it was.
        """
        holder = holder or this_process()
        target = Path(os.path.realpath(plan.target_path))
        _check_apart(plan, target)
        with _target_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = cls(plan, target, take_lock(_lock_path(target), target, holder))
        try:
            with _target_errors(target):
                staging._prepare(on_exists, holder.claim)
        except BaseException:
            staging.close()
            raise
        return staging

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Gives the lock back; the directory stays as it is."""
        self._lock.release()

    def pending(self, mode: str) -> list[int]:
        """The numbers of the tasks that are not yet done in this mode ("write", "verify", "compare")."""
        done = set(os.listdir(self.path / MARKS))
        return [task for task in self.task_names(mode) if os.path.basename(mark_path(mode, task)) not in done]

    def task_names(self, mode: str) -> dict[int, str]:
        """All tasks of this mode, by number."""
        return {task.id: task.name for task in (self._reverse if mode == "compare" else self.plan.tasks)}

    def add_reverse(self, tasks: Iterable[Task]) -> None:
        """Puts the tasks of mode "compare" in place: on the plan's tables swapped, from the staged files to the source's."""
        self._reverse = tuple(tasks)
        plan = self.plan
        with _target_errors(self.target):
            for task in self._reverse:
                swapped = (plan.target_files, plan.target_tensors), (plan.source_files, plan.source_tensors)
                data = dump_task(extract_task(task, plan.fingerprint, *swapped))
                (self.path / task_path("compare", task.id)).write_bytes(data)

    def forget(self, *modes: str) -> None:
        """Removes these modes' marks, so that their tasks are done again."""
        for name in os.listdir(self.path / MARKS):
            if name.partition("-")[0] in modes:
                (self.path / MARKS / name).unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        """Makes running tasks end with Canceled at their next step, wherever they run."""
        with _target_errors(self.target):
            (self.path / CANCEL).touch()

    def seal(self) -> None:
        """Adds checksums and side files, and puts everything on stable storage. Does nothing if an earlier run has done it.

        Raises VerifyError where a tensor was not written whole, SourceChanged where a file to copy is gone.
        """
        if (self.path / SEALED).exists():
            return
        with _target_errors(self.target):
            self.fence = raise_fence(self.path)  # a worker that was given up may be alive: from here on it is refused
            sealing.seal_files(self.plan, self.path, self._tensor_crcs())
            sealing.write_side_files(self.plan, self.path, last=False)
            (self.path / SEALED).touch()
            sealing.sync_directories(self.path)

    def digests(self) -> dict[str, str]:
        """{"file/tensor": CRC-32 in hex} of everything written. Raises VerifyError as `seal` does."""
        crcs, files = self._tensor_crcs(), self.plan.target_files
        return {f"{files[t.file].path}/{t.name}": f"{crcs[n]:08x}" for n, t in enumerate(self.plan.target_tensors)}

    def publish(self) -> None:
        """Moves the directory into place. After this the target is there, whole, and the lock is given back."""
        with _target_errors(self.target):
            sealing.write_side_files(self.plan, self.path, last=True)
            sealing.open_up(self.path)
            # In one step, so that a crash leaves either all of it or nothing here, and late workers lose their fence at once.
            os.rename(self.path / PRIVATE, _ended_path(self.target))
            sealing.sync_directories(self.path)
            self._swap_in()
            sealing.sync_directory(self.target.parent)
            _remove(_ended_path(self.target))
        self.close()

    def discard(self) -> None:
        """Removes the directory and gives the lock back. Late workers find their fence and their files gone."""
        (self.path / FENCE).unlink(missing_ok=True)
        _remove(self.path)
        self.close()

    def _prepare(self, on_exists: str, claim: int) -> None:
        _undo_half_publishing(self.target)
        _check_target(self.target, on_exists)
        if not self._may_go_on(on_exists):
            _remove(self.path)
        check_room(self.plan, self.path, self.target.parent)
        for folder in (PRIVATE, TASKS, MARKS):
            (self.path / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)
        self.fence = raise_fence(self.path, claim)
        (self.path / CANCEL).unlink(missing_ok=True)
        if not (self.path / SEALED).exists():
            sealing.make_files(self.plan, self.path)
        self._write_tasks()
        # The fingerprint comes last: a directory without one is not gone on with.
        temporary = self.path / f"{FINGERPRINT}.tmp"
        temporary.write_text(self.plan.fingerprint)
        temporary.replace(self.path / FINGERPRINT)

    def _may_go_on(self, on_exists: str) -> bool:
        """Whether a staging directory that is there belongs to this plan and is to be finished."""
        if on_exists not in RESUMING:
            return False
        try:
            found = (self.path / FINGERPRINT).read_text()
        except FileNotFoundError:
            return False
        if found == self.plan.fingerprint or on_exists == "resume-overwrite":
            return found == self.plan.fingerprint
        raise TargetExists(
            f"there is an unfinished conversion to {self.target}, by another plan",
            facts=[f"its fingerprint is {found}, this plan's {self.plan.fingerprint}", f"it lies in {self.path}"],
            do='run the job with on_exists "error" or "overwrite" to drop it',
            details={"target": str(self.target), "staging": str(self.path), "found": found, "expected": self.plan.fingerprint},
        )

    def _write_tasks(self) -> None:
        plan = self.plan
        for task in plan.tasks:
            path = self.path / task_path("write", task.id)
            if not path.exists():
                tables = (plan.source_files, plan.source_tensors), (plan.target_files, plan.target_tensors)
                path.write_bytes(dump_task(extract_task(task, plan.fingerprint, *tables)))

    def _tensor_crcs(self) -> dict[int, int]:
        """The CRC-32 of every target tensor by its number, from the marks of all tasks."""
        if not self._crcs:
            digests = Digests()
            for task in self.plan.tasks:
                digests.update_from_json(json.loads((self.path / mark_path("write", task.id)).read_bytes())["regions"])
            for number, t in enumerate(self.plan.target_tensors):
                name = f"{self.plan.target_files[t.file].path}/{t.name}"
                self._crcs[number] = digests.whole(number, t.size_bytes, name)
        return self._crcs

    def _swap_in(self) -> None:
        aside = _aside_path(self.target)
        if _has_content(self.target):
            os.rename(self.target, aside)
        os.rename(self.path, self.target)
        _remove(aside)


def staging_path(target: Path) -> Path:
    """Where the target is made: a hidden directory beside it, on the same file system."""
    return target.with_name(f".{target.name}.convsvc")


def tidy_published(target: Path) -> None:
    """Removes what a crash just after the target was moved into place has left beside it. Raises TargetBusy, TargetError."""
    with _left_behind(target):
        _undo_half_publishing(target)


def discard_left(target: Path) -> None:
    """Removes the staging directory that an earlier run has left, if any; the target stays as it is. Raises TargetBusy, TargetError."""
    with _left_behind(target):
        _undo_half_publishing(target)
        (staging_path(target) / FENCE).unlink(missing_ok=True)
        _remove(staging_path(target))


@contextmanager
def _left_behind(target: Path) -> Iterator[None]:
    if not target.parent.is_dir():
        return
    with _target_errors(target):
        lock = take_lock(_lock_path(target), target, this_process())
        try:
            yield
        finally:
            lock.release()


def _lock_path(target: Path) -> Path:
    return staging_path(target).with_suffix(".convsvc-lock")


def _aside_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.convsvc-old")


def _ended_path(target: Path) -> Path:
    """Where the private files of a staging directory lie while it becomes the target."""
    return target.with_name(f".{target.name}.convsvc-ended")


def _undo_half_publishing(target: Path) -> None:
    """After a crash in `publish`: what was taken out of the staging directory comes back, or goes if the directory is the target."""
    _undo_half_swap(target)
    ended, staging = _ended_path(target), staging_path(target)
    if ended.exists() and staging.exists() and not (staging / PRIVATE).exists():
        os.rename(ended, staging / PRIVATE)
    _remove(ended)


def _undo_half_swap(target: Path) -> None:
    """After a crash between the two renames of an overwrite: the old target comes back, or goes if the new one is there."""
    aside = _aside_path(target)
    if aside.exists():
        if target.exists():
            _remove(aside)
        else:
            os.rename(aside, target)


def _check_target(target: Path, on_exists: str) -> None:
    if target.exists() and not target.is_dir():
        raise TargetExists(f"{target} is a file", do="choose another target", details={"target": str(target)})
    if on_exists not in OVERWRITING and _has_content(target):
        raise TargetExists(
            f"{target} exists and is not empty",
            do='choose another target, or set on_exists to "overwrite"',
            details={"target": str(target)},
        )


def _check_apart(plan: Plan, target: Path) -> None:
    """The source may not lie in the target: replacing the target would remove it."""
    for file in plan.source_files:
        if target in Path(os.path.realpath(file.path)).parents:
            raise TargetError(f"the source file {file.path} lies in the target {target}", do="choose another target")


def _has_content(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _remove(path: Path) -> None:
    tries = 0
    while path.exists():
        try:
            shutil.rmtree(path)
        except OSError as error:
            # A late worker may make or remove a temporary file meanwhile; by the next try it has noticed.
            tries += 1
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT} or tries > 3:
                raise


@contextmanager
def _target_errors(target: Path) -> Iterator[None]:
    """Turns an operating system's error into a TargetError that names the target, or NoSpace, or StorageError."""
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise _unwritable(error, target) from error
    except OSError as error:
        if error.errno in FULL or error.filename is None:
            raise storage_error(error, str(error.filename or target), "writing") from error
        raise _unwritable(error, target) from error


def _unwritable(error: OSError, target: Path) -> ConvsvcError:
    return TargetError(
        f"{target} cannot be written: {error.strerror}: {error.filename}",
        do="check the path and its permissions",
        details={"target": str(target), "path": str(error.filename)},
    )
