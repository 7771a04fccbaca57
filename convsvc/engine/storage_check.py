"""Checks a directory as a conversion uses it: from this process and from every machine of an engine, alone and against one another.

    check_storage(Path("/mnt/ckpt"), engine)   one report a machine; this process is what the others are tried against

Between machines three things decide: that they see the same directory, that a lock which one has the others do not get, and that
two which write the two halves of a page do not undo one another's (regions of a target's files meet within pages).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from convsvc import __version__
from convsvc.engine.base import Call, Engine, Outcome
from convsvc.errors import StorageError, TargetError
from convsvc.execute.disk.trials import BAD, MISSING, OK, PAGE, Finding, try_all

FUNCTION = "convsvc.engine.storage_check:answer"
DEADLINE_S, AGAIN_S = 120.0, 0.5
SPEED_BYTES = 64 << 20
HALF = PAGE // 2
OURS, THEIRS = b"o" * HALF, b"t" * HALF
MARK, LOCK, SHARED = "mark", "lock", "page"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found from one machine."""

    machine: str
    worker: str
    findings: tuple[Finding, ...]

    @property
    def is_good(self) -> bool:
        return all(finding.result != BAD for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        found = [finding.as_dict() for finding in self.findings]
        return {"machine": self.machine, "worker": self.worker, "good": self.is_good, "findings": found}


def check_storage(directory: Path, engine: Engine, speed_bytes: int = SPEED_BYTES) -> list[Report]:
    """A report from this process, and one from each of the engine's machines; takes seconds, and leaves nothing behind.

    `speed_bytes` are written and read on each, one machine after the other. Raises TargetError where this process cannot write there.
    """
    with _workshop(directory) as workshop:
        own = workshop / "here"
        own.mkdir()
        reports = [Report("this process", f"process {os.getpid()}", tuple(try_all(own, speed_bytes)))]
        for place in sorted(engine.places):
            reports.append(_ask(engine, place, workshop, speed_bytes))
    return reports


def answer(payload: dict[str, Any]) -> dict[str, Any]:
    """What one machine finds: called there. `step` "try": everything, and half of a shared page; "look": what became of it."""
    workshop = Path(payload["workshop"])
    if payload["step"] == "look":
        return {"page": (workshop / SHARED).read_bytes() == OURS + THEIRS}
    host = os.uname().nodename
    seen = _sees(workshop, payload["mark"])
    if seen.result == BAD:
        return {"host": host, "findings": [seen.as_dict()]}
    own = workshop / payload["name"]
    try:
        own.mkdir()
    except OSError as error:
        unwritable = Finding("writing", BAD, f"nothing can be made here: {error.strerror}", "mount it for writing, by the service's user")
        return {"host": host, "findings": [seen.as_dict(), unwritable.as_dict()]}
    found = [_version(payload["version"]), seen, _gets_no_lock(workshop), *try_all(own, payload["speed_bytes"])]
    descriptor = os.open(workshop / SHARED, os.O_WRONLY)
    try:
        os.pwrite(descriptor, THEIRS, HALF)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"host": host, "findings": [finding.as_dict() for finding in found]}


def _ask(engine: Engine, place: str, workshop: Path, speed_bytes: int) -> Report:
    mark = secrets.token_hex(8)
    (workshop / MARK).write_text(mark)
    payload = {"workshop": str(workshop), "name": secrets.token_hex(4), "mark": mark, "speed_bytes": speed_bytes, "version": __version__}
    with (workshop / LOCK).open("w") as lock, _shared_page(workshop) as page:
        locked = _lock(lock.fileno())
        told, worker = _call(engine, place, {**payload, "step": "try"})
        if told is None:
            return Report(place, "", (Finding("answer", BAD, worker, "look at the machine; all must run this version of convsvc"),))
        # Now, with the page as it was before the other half was written still in this machine's cache.
        os.pwrite(page, OURS, 0)
        os.fsync(page)
    findings = [Finding(**finding) for finding in told["findings"]]
    if all(finding.result != BAD for finding in findings):
        findings.append(_judge_page(engine, place, workshop, payload))
    return Report(str(told["host"]), worker, tuple(finding for finding in findings if locked or finding.trial != "lock between machines"))


def _judge_page(engine: Engine, place: str, workshop: Path, payload: dict[str, Any]) -> Finding:
    looked, _ = _call(engine, place, {**payload, "step": "look"})
    here = (workshop / SHARED).read_bytes() == OURS + THEIRS
    if here and looked is not None and looked["page"]:
        return Finding("shared page", OK, "two writers of one page both find what they wrote")
    who = "neither" if not here and not (looked or {}).get("page") else "only one of them"
    return Finding(
        "shared page",
        BAD,
        f"two machines wrote the halves of one page, and {who} finds both",
        "mount it without write-back caching (FUSE: no writeback_cache; NFS: no nocto), or run all tasks on one machine",
    )


def _call(engine: Engine, place: str, payload: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """(what was answered, the worker); (None, why) where nothing was.

    That a machine is avoided is a wish: one that has no processor free at the moment lets another answer, and is asked again.
    """
    until, why = monotonic() + DEADLINE_S, f"no answer within {DEADLINE_S:g} s"
    while (left_s := until - monotonic()) > 0:
        name = secrets.token_hex(4)
        call = Call(f"storage-{name}", FUNCTION, {**payload, "name": name}, left_s, engine.places - {place})
        engine.submit(call)
        outcome = _outcome(engine, call.id, until)
        if outcome is None:
            break
        if outcome.error is not None and outcome.place in ("", place):
            return None, str(outcome.error.get("message", ""))
        if outcome.error is None and outcome.place == place:
            return outcome.value, outcome.worker
        why = f"it was answered by {outcome.worker} instead, again and again"
        sleep(AGAIN_S)
    return None, why


def _outcome(engine: Engine, call_id: str, until: float) -> Outcome | None:
    """What became of a call; None if nothing did in time."""
    while monotonic() < until:
        for outcome in engine.wait(0.5):
            if outcome.id == call_id:
                return outcome
    return None


def _version(wanted: str) -> Finding:
    if wanted == __version__:
        return Finding("version", OK, __version__)
    return Finding("version", BAD, f"convsvc {__version__}, asked by {wanted}", "bring all machines to one version")


def _sees(workshop: Path, mark: str) -> Finding:
    try:
        if (workshop / MARK).read_text() == mark:
            return Finding("same directory", OK, "what was just written elsewhere is there")
        text = "what was just written elsewhere is not seen: an old copy of it is"
    except OSError as error:
        text = f"{workshop.parent} is another directory here, or none: {error.strerror}"
    return Finding(
        "same directory", BAD, text, "mount the shared storage at the same path on every machine, attributes cached for 1 s at most"
    )


def _gets_no_lock(workshop: Path) -> Finding:
    """Whoever asks has the lock."""
    with (workshop / LOCK).open("a") as lock:
        if not _lock(lock.fileno()):
            return Finding("lock between machines", OK, "who has it keeps the others out")
    text = "two machines have the same lock: flock is each machine's own"
    return Finding("lock between machines", MISSING, text, "mount without local_lock or localflock; until then let one service write here")


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _shared_page(workshop: Path) -> Iterator[int]:
    """A page of zeros, open and in this machine's cache."""
    (workshop / SHARED).write_bytes(bytes(PAGE))
    descriptor = os.open(workshop / SHARED, os.O_RDWR)
    try:
        os.pread(descriptor, PAGE, 0)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _workshop(directory: Path) -> Iterator[Path]:
    path = directory / f".convsvc-check-{secrets.token_hex(6)}"
    try:
        path.mkdir(0o755)
    except OSError as error:
        raise TargetError(f"nothing can be made in {directory}: {error.strerror}", do="check the path and its permissions") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            raise StorageError(f"{path} cannot be removed", do="remove it by hand")
