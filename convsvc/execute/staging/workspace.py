"""The directory in which a target is made: beside the target, private, moved into place when it is whole.

    Staging.open(plan, on_exists)    takes the lock, makes every target file with its skeleton
    pending(mode)                    the tasks without a completion mark
    seal()                           checksums, side files, everything on stable storage
    complete()                       the `last` files too: from here on it can be opened as a checkpoint, at `inside`
    publish() | discard()            the target appears whole, or nothing is left

Until `publish` nothing bears the target's name, and until `complete` what would make the directory look like a checkpoint (the plan's
`last` files) is not there. A staging directory left by a crash, at whatever moment, is taken up again by `on_exists="resume"` with the same
plan: tasks that have a mark are not done again, and files that are sealed are not written again.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import convsvc
from convsvc.dialects.output import CARD, MANIFEST, REPORT
from convsvc.errors import Canceled, TargetExists
from convsvc.execute.check.digests import Digests
from convsvc.execute.disk.io import write_atomically
from convsvc.execute.staging import card, sealing
from convsvc.execute.staging.fences import raise_fence
from convsvc.execute.staging.folders import OpenFolder, make_private, open_private, remove_private
from convsvc.execute.staging.holders import Holder, this_process
from convsvc.execute.staging.manifest import Manifest, file_crc
from convsvc.execute.staging.marks import (
    CANCEL,
    CARD_COPY,
    FINGERPRINT,
    HASHES,
    MARKS,
    MOVED,
    PICTURE_COPY,
    PRIVATE,
    REPORT_COPY,
    SEALED,
    TASKS,
    mark_path,
)
from convsvc.execute.staging.moved import read_moved
from convsvc.execute.staging.protected import check_apart
from convsvc.execute.staging.publishing import Journal, discard, find_replaced, plan_filling, publish, settle
from convsvc.execute.staging.report import Ran, Written, compose_report, dump_report, goes_into_target
from convsvc.execute.staging.report_files import beside, check_place, has_place_beside
from convsvc.execute.staging.room import check_room
from convsvc.execute.staging.sites import STAGING, Site, open_site, target_errors
from convsvc.execute.staging.task_pack import At, read_index, write_pack
from convsvc.execute.task_files import dump_task, extract_task
from convsvc.notes import Note
from convsvc.pictures.of_plan import picture_of_plan
from convsvc.pictures.page import render_page, wants_picture
from convsvc.plan.plan import Plan
from convsvc.plan.records import Task

OVERWRITING = ("overwrite", "resume-overwrite")
RESUMING = ("resume", "resume-overwrite")


class Staging:
    """The staging directory of one plan, locked. Made by `Staging.open`; a context manager which gives the lock back.

    `fence` is the number that holds now: calls carry it, and those that carry an older one write nothing more (see `fences`).
    """

    def __init__(self, plan: Plan, site: Site, on_exists: str) -> None:
        self.plan = plan
        self.target = site.target
        self.path = site.target / STAGING if site.inside else site.target.with_name(site.staging.name)
        self.fence = 0
        self.owner = -1
        self.run = ""
        self._on_exists = on_exists
        # What is done is done by these: the target's place, and the open staging directory.
        self._site = site
        self._inside = OpenFolder(-1)
        self._reverse: tuple[Task, ...] = ()
        self._packs: dict[str, dict[int, At]] = {}
        self._check: Callable[[], object] = lambda: None
        self._crcs: dict[int, int] = {}

    @classmethod
    def open(cls, plan: Plan, on_exists: str, holder: Holder | None = None, check: Callable[[], object] | None = None) -> Staging:
        """The plan's staging directory, ready for its tasks.

        `on_exists`: "error" | "overwrite" | "resume", as in the job, or "resume-overwrite": go on with what an earlier run of a job that
        overwrites has left. `holder` is who opens it, by default this process; the fence is at least its claim's. `check` is called while
        files are made or sealed, and may raise to stop that; after Canceled nothing stays. Raises TargetExists, TargetBusy, NoSpace or
        TargetError; then the target is as it was.
        """
        holder = holder or this_process()
        target = Path(plan.roots.check(plan.target_path, "target.path", inside=True))
        check_apart(plan, target)
        staging = cls(plan, open_site(target, plan.roots, holder), on_exists)
        staging._check = check or staging._check
        try:
            with target_errors(target):
                staging._prepare(holder.claim)
        except Canceled:
            staging.discard()
            raise
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
        self._inside.close()
        self._site.close()

    def pending(self, mode: str) -> list[int]:
        """The numbers of the tasks that are not yet done in this mode ("write", "verify", "compare")."""
        done = set(os.listdir(self._inside.path / MARKS))
        return [task for task in self.task_names(mode) if os.path.basename(mark_path(mode, task)) not in done]

    def task_names(self, mode: str) -> dict[int, str]:
        """All tasks of this mode, by number."""
        return {task.id: task.name for task in (self._reverse if mode == "compare" else self.plan.tasks)}

    def notes(self) -> list[dict[str, Any]]:
        """What the tasks that have written so far had to say, as JSON: it stands in their marks."""
        marks = [self._inside.path / mark_path("write", task.id) for task in self.plan.tasks]
        return [note for mark in marks if mark.exists() for note in json.loads(mark.read_bytes()).get("notes", ())]

    def moved(self, mode: str, tasks: Iterable[int]) -> dict[int, int]:
        """The bytes that tasks which run in this mode have moved so far, of those that have said so."""
        return read_moved(self._inside.descriptor, mode, tasks)

    def task_at(self, mode: str, task: int) -> At:
        """Where the task lies in its mode's pack."""
        return self._packs["compare" if mode == "compare" else "write"][task]

    def add_reverse(self, tasks: Iterable[Task]) -> None:
        """Puts the tasks of mode "compare" in place: on the plan's tables swapped, from the staged files to the source's."""
        self._reverse = tuple(tasks)
        plan = self.plan
        with target_errors(self.target):
            swapped = (plan.target_files, plan.target_tensors), (plan.source_files, plan.source_tensors)
            self._write_pack("compare", self._reverse, *swapped)

    def forget(self, *modes: str) -> None:
        """Removes these modes' marks, so that their tasks are done again."""
        for name in os.listdir(self._inside.path / MARKS):
            if name.partition("-")[0] in modes:
                (self._inside.path / MARKS / name).unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        """Makes running tasks end with Canceled at their next step, wherever they run."""
        with target_errors(self.target):
            self._site.check_held()
            (self._inside.path / CANCEL).touch()

    def seal(self) -> None:
        """Adds checksums and side files, and puts everything on stable storage. Does nothing if an earlier run has done it.

        Raises VerifyError where a tensor was not written whole, SourceChanged where a file to copy is gone.
        """
        root = self._inside.path
        if (root / SEALED).exists():
            return
        with target_errors(self.target):
            self._site.check_held()
            self.fence = raise_fence(root)  # a worker that was given up may be alive: from here on it is refused
            file_crcs = sealing.seal_files(self.plan, root, self._tensor_crcs(), self._check)
            sealing.write_side_files(self.plan, root, last=False)
            self._site.check_held()
            write_atomically(self._inside.descriptor, SEALED, json.dumps(file_crcs).encode(), "sealing")
            sealing.sync_directories(root)

    @property
    def inside(self) -> str:
        """The staging directory's path through its open descriptor: what is opened there was written here."""
        return str(self._inside.path)

    def complete(self) -> None:
        """Writes the files that come last: what is staged is the whole target now. Raises OSError's kinds as `seal`."""
        with target_errors(self.target):
            self._site.check_held()
            sealing.write_side_files(self.plan, self._inside.path, last=True, hashes=self._hashes())

    def crcs(self) -> dict[int, int]:
        """The CRC-32 of every target tensor, by its number. Raises VerifyError as `seal` does."""
        return self._tensor_crcs()

    def digests(self) -> dict[str, str]:
        """{"file/tensor": CRC-32 in hex} of everything written. Raises VerifyError as `seal` does."""
        crcs, files = self._tensor_crcs(), self.plan.target_files
        return {f"{files[t.file].path}/{t.name}": f"{crcs[n]:08x}" for n, t in enumerate(self.plan.target_tensors)}

    @property
    def report_path(self) -> Path:
        """Where the report lies once the target is published: beside it, or in it where nobody may write beside it."""
        return beside(self.target) if has_place_beside(self._site) else self.target / REPORT

    def publish(self, ran: Ran | None = None) -> list[Note]:
        """Moves the directory into place. After this the target is there, whole, its report beside it, and the lock is given back.

        Answers what a user should know of it. Raises TargetExists where something is in the way by now; then the target is as it was.
        """
        with target_errors(self.target):
            self.complete()
            old = self._check_target()
            self._add_report(ran or Ran())
            self._add_manifest()
            if self._site.inside is None:
                sealing.open_up(self._inside.path, self._replaced())
            journal = Journal(self.run, old, *plan_filling(self._site, self._inside, self.plan, old))
            notes = publish(self._site, self._inside, journal, self._on_exists in OVERWRITING)
        self.close()
        return notes

    def discard(self) -> bool:
        """Removes the directory and gives the lock back. Late workers find their fence and their files gone.

        Answers whether it had become the target already: then that stays.
        """
        with target_errors(self.target):
            discard(self._site)
            published = self._site.is_run(self.run)
        self.close()
        return published

    def _prepare(self, claim: int) -> None:
        site = self._site
        settle(site)
        self._check_target()
        check_place(site)
        if not self._may_go_on(self._on_exists):
            site.check_held()
            remove_private(site.staging)
        check_room(self.plan, self.path, self.target if site.inside else self.target.parent)
        self._inside = make_private(site.staging)
        self.owner = os.fstat(self._inside.descriptor).st_uid
        root = self._inside.path
        for folder in (PRIVATE, TASKS, MARKS, MOVED):
            make_private(root / folder).close()
        site.check_held()
        self.fence = raise_fence(root, claim)
        (root / CANCEL).unlink(missing_ok=True)
        if not (root / SEALED).exists():
            sealing.make_files(self.plan, root, self._check)
        self._write_tasks()
        # Another word at each opening: what an earlier one has published, and nobody has finished, was finished above.
        self.run = uuid.uuid4().hex
        # The fingerprint comes last: a directory without one is not gone on with.
        write_atomically(self._inside.descriptor, FINGERPRINT, self.plan.fingerprint.encode(), "opening")

    def _check_target(self) -> tuple[str, ...]:
        return find_replaced(self._site, self.plan, overwrites=self._on_exists in OVERWRITING)

    def _replaced(self) -> os.stat_result | None:
        try:
            return os.lstat(self._site.at)
        except FileNotFoundError:
            return None

    def _add_report(self, ran: Ran) -> None:
        """Report and card: in the target if the job wants them there, or nobody may write beside it; and among the private files, with the
        picture, for the place beside it."""
        plan, root = self.plan, self._inside.path
        made = {side.path: _sized(root / side.path) for side in plan.side_files}
        written = Written(self._file_crcs(), made, self.digests())
        said = compose_report(plan, self.run, convsvc.__version__, ran, written)
        report, has_place = dump_report(said), has_place_beside(self._site)
        shown = card.compose_card(said) if card.wants_card(plan) else None
        drawn = render_page(picture_of_plan(plan)).encode() if has_place and wants_picture(plan) else None
        for name, text, is_wanted in (
            (REPORT, report, goes_into_target(plan) or not has_place),
            (REPORT_COPY, report, has_place),
            (CARD, shown, card.goes_into_target(plan) or not has_place),
            (CARD_COPY, shown, has_place),
            (PICTURE_COPY, drawn, has_place),
        ):
            if is_wanted and text is not None:
                sealing.write_text(root, name, text)
            else:
                (root / name).unlink(missing_ok=True)

    def _add_manifest(self) -> None:
        plan, root = self.plan, self._inside.path
        files: dict[str, tuple[int, int | None]] = {file.path: (file.size_bytes, None) for file in plan.target_files}
        for name in (*(side.path for side in plan.side_files), REPORT, CARD):
            if (root / name).exists():
                files[name] = _sized(root / name)
        sealing.write_text(root, MANIFEST, Manifest(self.run, convsvc.__version__, plan.fingerprint, files).dump().encode())

    def _file_crcs(self) -> list[int | None]:
        try:
            crcs = json.loads((self._inside.path / SEALED).read_bytes())
        except ValueError:  # an older version's mark is empty
            crcs = []
        return crcs if len(crcs) == len(self.plan.target_files) else [None] * len(self.plan.target_files)

    def _may_go_on(self, on_exists: str) -> bool:
        """Whether a staging directory that is there belongs to this plan and is to be finished."""
        if on_exists not in RESUMING:
            return False
        try:
            left = open_private(self._site.staging)
        except FileNotFoundError:
            return False
        try:
            found = (left.path / FINGERPRINT).read_text()
        except FileNotFoundError:
            return False
        finally:
            left.close()
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
        tables = (plan.source_files, plan.source_tensors), (plan.target_files, plan.target_tensors)
        self._write_pack("write", plan.tasks, *tables)

    def _write_pack(self, mode: str, tasks: Iterable[Task], *tables: Any) -> None:
        key = f"{self.plan.fingerprint} {convsvc.__version__}"
        there = read_index(self._inside.descriptor, mode, key)
        if there is None:
            hashed = mode == "write" and self.plan.is_hashed
            documents = ((task.id, dump_task(extract_task(task, self.plan.fingerprint, tables[0], tables[1], hashed))) for task in tasks)
            there = write_pack(self._inside.descriptor, mode, key, documents, self._check)
        self._packs[mode] = there

    def _hashes(self) -> dict[str, str]:
        """Of the files that were hashed while they were written, by their paths."""
        marks = (self._inside.path / mark_path("write", task.id) for task in self.plan.tasks) if self.plan.is_hashed else ()
        return {path: hexed for mark in marks for path, hexed in json.loads(mark.read_bytes()).get(HASHES, {}).items()}

    def _tensor_crcs(self) -> dict[int, int]:
        """The CRC-32 of every target tensor by its number, from the marks of all tasks."""
        if not self._crcs:
            digests = Digests()
            for task in self.plan.tasks:
                digests.update_from_json(json.loads((self._inside.path / mark_path("write", task.id)).read_bytes())["regions"])
            for number, t in enumerate(self.plan.target_tensors):
                name = f"{self.plan.target_files[t.file].path}/{t.name}"
                self._crcs[number] = digests.whole(number, t.size_bytes, name)
        return self._crcs


def _sized(path: Path) -> tuple[int, int]:
    """A small file's size in bytes and CRC-32."""
    return os.stat(path).st_size, file_crc(path)
