"""What of a target is no tensor: its files' headers, directories and checksums, and its side files, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from convsvc.dialects.output import MANIFEST
from convsvc.errors import VerifyError
from convsvc.execute.check.hashing import hash_file
from convsvc.execute.disk.faults import storage_error
from convsvc.execute.staging.manifest import find_changed, read_manifest
from convsvc.execute.staging.sealing import files_in
from convsvc.formats import FORMATS
from convsvc.plan.plan import Plan, SideFile
from convsvc.roots.beneath import open_beneath

CHUNK_BYTES = 1 << 20
SHOWN = 12


class Span(NamedTuple):
    """Bytes of a file that are known: `data` from `start` on."""

    start: int
    data: bytes


def check_sizes(plan: Plan, directory: int) -> None:
    """Raises VerifyError for files that are not there or have another size than planned."""
    faults = []
    for file in plan.target_files:
        size = _size(directory, file.path)
        if size != file.size_bytes:
            what = "is not there" if size is None else f"has {size} bytes, expected {file.size_bytes} bytes"
            faults.append(f"{os.path.join(plan.target_path, file.path)}: {what}")
    _raise(faults, plan, "files are not as large as this job writes them")


def check_frames(plan: Plan, directory: int, crcs: Mapping[int, int]) -> None:
    """Everything in the target's files that is not a tensor: what was known before, checksums, the zeros between.

    `crcs`: of every target tensor, by its number. Raises VerifyError naming files and bytes.
    """
    by_file: dict[int, dict[str, int]] = {}
    tensors: dict[int, list[tuple[int, int]]] = {}
    for number, tensor in enumerate(plan.target_tensors):
        by_file.setdefault(tensor.file, {})[tensor.name] = crcs[number]
        tensors.setdefault(tensor.file, []).append((tensor.file_offset, tensor.file_offset + tensor.size_bytes))
    faults: list[str] = []
    for number, (file, skeleton) in enumerate(plan.new_files()):
        sealed = FORMATS[file.format].seal(skeleton, by_file.get(number, {}))
        spans = sorted(Span(*segment) for segment in (*skeleton.segments, *sealed))
        with _opened(directory, file.path) as descriptor:
            at = _first_difference(descriptor, _between(spans, sorted(tensors.get(number, ())), file.size_bytes), file.path)
        if at is not None:
            faults.append(f"{file.path}: byte {at}, in what is not a tensor (a header, a directory or a checksum)")
    _raise(faults, plan, "files have other headers than this job writes")


def check_side_files(plan: Plan, directory: int) -> None:
    """Every side file holds what the plan would write now. Raises VerifyError naming them, OSError for a copied one that is gone."""
    faults = [fault for side in plan.side_files if (fault := _side_fault(side, directory, plan))]
    _raise(faults, plan, "side files are not what this job writes")


def check_hashes(plan: Plan, directory: int, check: Callable[[], object] = lambda: None) -> None:
    """Every file is what the side file says of it that has their hashes; all of them are read. Raises VerifyError naming them."""
    faults: list[str] = []
    for side in plan.side_files:
        if side.hashes_of is None:
            continue
        with _opened(directory, side.path) as descriptor:
            said = _hashes_in(_content(os.dup(descriptor))) or {}
        for path, _ in files_in(plan, side.hashes_of):
            check()
            with _opened(directory, path) as descriptor:
                found = hash_file(descriptor)
            if found != said.get(os.path.basename(path)):
                faults.append(f"{path}: its SHA-256 is {found}, {side.path} says {said.get(os.path.basename(path))}")
    _raise(faults, plan, "files are not what the list of their hashes says")


def check_made(plan: Plan, directory: int) -> None:
    """The target's manifest and report are as they were written. Raises VerifyError. An older version's target has neither."""
    folder = Path(f"/proc/self/fd/{directory}")
    if _size(directory, MANIFEST) is None:
        return
    manifest = read_manifest(folder)
    if manifest is None:
        _raise([f"{MANIFEST}: it is damaged"], plan, "the list of what was made is not what was written")
        return
    faults = [f"{path}: is not there" for path in manifest.files if _size(directory, path) is None]
    _raise([*faults, *find_changed(folder, manifest)], plan, "files are not as they were written")


def _side_fault(side: SideFile, directory: int, plan: Plan) -> str | None:
    if _size(directory, side.path) is None:
        return f"{side.path} is not there"
    if side.hashes_of is not None:
        return _hashes_fault(side, side.hashes_of, directory, plan)
    wanted = side.data if side.copy_from is None else _content(plan.roots.open(side.copy_from, os.O_RDONLY | os.O_NONBLOCK))
    with _opened(directory, side.path) as descriptor:
        found = _content(os.dup(descriptor))
    if found == wanted:
        return None
    at = next((at for at, (one, other) in enumerate(zip(found, wanted, strict=False)) if one != other), min(len(found), len(wanted)))
    return f"{side.path}: {len(found)} bytes, expected {len(wanted)}, first difference at byte {at}"


def _hashes_fault(side: SideFile, folder: str, directory: int, plan: Plan) -> str | None:
    """Whether it names the files that there are, and says what the plan says of those whose content it knows."""
    with _opened(directory, side.path) as descriptor:
        said = _hashes_in(_content(os.dup(descriptor)))
    if said is None:
        return f"{side.path} is no list of hashes"
    wanted = {os.path.basename(path): data for path, data in files_in(plan, folder)}
    if set(said) != set(wanted):
        return (
            f"{side.path} names {len(set(said) - set(wanted))} files that this job does not write, and lacks {len(set(wanted) - set(said))}"
        )
    wrong = [name for name, data in wanted.items() if data is not None and said[name] != hashlib.sha256(data).hexdigest()]
    return f"{side.path} has another hash of {wrong[0]}" if wrong else None


def _hashes_in(data: bytes) -> dict[str, str] | None:
    try:
        files = json.loads(data)["files"]
    except (ValueError, TypeError, KeyError):
        return None
    return files if isinstance(files, dict) and all(isinstance(each, str) for each in files.values()) else None


def _between(spans: Iterable[Span], tensors: Iterable[tuple[int, int]], size_bytes: int) -> Iterator[Span]:
    """The spans, and zeros where there is neither a span nor a tensor."""
    at = 0
    for start, stop, span in sorted(
        [(span.start, span.start + len(span.data), span) for span in spans] + [(start, stop, None) for start, stop in tensors],
        key=lambda each: (each[0], each[1]),
    ):
        yield from _zeros(at, start)
        if span is not None:
            yield span
        at = max(at, stop)
    yield from _zeros(at, size_bytes)


def _zeros(start: int, stop: int) -> Iterator[Span]:
    for at in range(start, stop, CHUNK_BYTES):
        yield Span(at, bytes(min(CHUNK_BYTES, stop - at)))


def _first_difference(descriptor: int, spans: Iterable[Span], path: str) -> int | None:
    for start, data in spans:
        try:
            found = os.pread(descriptor, len(data), start)
        except OSError as error:
            raise storage_error(error, path, "reading") from error
        if found != data:
            return start + next((at for at, (one, other) in enumerate(zip(found, data, strict=False)) if one != other), len(found))
    return None


def _size(directory: int, path: str) -> int | None:
    try:
        with _opened(directory, path) as descriptor:
            return os.fstat(descriptor).st_size
    except VerifyError:
        return None


@contextmanager
def _opened(directory: int, path: str) -> Iterator[int]:
    try:
        descriptor = open_beneath(directory, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise VerifyError(f"{path} is not there") from error
    except OSError as error:
        raise storage_error(error, path, "opening") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def _raise(faults: list[str], plan: Plan, what: str) -> None:
    if faults:
        raise VerifyError(
            f"{plan.target_path}: {len(faults)} {what}",
            facts=faults[:SHOWN] + ([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []),
            do="the target was changed or damaged since, or is of another job or version: run the job again",
            details={"target": plan.target_path, "faults": faults},
        )
