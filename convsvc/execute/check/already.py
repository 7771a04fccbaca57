"""Whether a target that is there is what a job would make: of the same source, by the same words, and still whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from convsvc.errors import SourceError, TargetExists, VerifyError
from convsvc.execute.check.files import check_made, check_side_files, check_sizes
from convsvc.execute.staging.manifest import Manifest, read_manifest
from convsvc.execute.staging.report import notes_in
from convsvc.execute.staging.report_files import read_report
from convsvc.execute.staging.sites import NOT_CONTENT
from convsvc.notes import Kind, Note
from convsvc.plan.fingerprint import APART
from convsvc.plan.opened import check_opens
from convsvc.plan.plan import Plan

# What of a report's account of a source file says what it holds: execution refuses a file whose size or time has changed.
CONTENT = ("path", "size_bytes", "modified_ns", "digest")


def check_already(plan: Plan) -> tuple[str, tuple[Note, ...]] | None:
    """Where the report of the target lies, and its notes, if the target is what this plan writes; None where no target is.

    It is if its manifest and its report are of one run, they name this source (each file's size, time and digest of headers) and these
    words of a job, and it is whole: every file has its size, side
    files hold what the plan writes, and it opens as what is planned. Tensors'
    bytes are not read. Raises TargetExists for anything else that is there, PathRefused.
    """
    try:
        directory = plan.roots.open(plan.target_path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise _other(plan, "it is a file") from None
    try:
        if not set(os.listdir(directory)) - set(NOT_CONTENT):
            return None
        manifest = read_manifest(Path(f"/proc/self/fd/{directory}"))
        place, report = read_report(Path(plan.target_path), plan.roots)
        if (why := _differs(plan, manifest, report)) is not None:
            raise _other(plan, why)
        _check_whole(plan, directory)
    finally:
        os.close(directory)
    return place, tuple(Note(cast(Kind, note["kind"]), note["text"]) for note in notes_in(report))


def _differs(plan: Plan, manifest: Manifest | None, report: Mapping[str, Any]) -> str | None:
    """In which respect what is there is not of this plan; None if it is. A report that is no report differs."""
    if manifest is None:
        return "it has no list of what was made, so no conversion made it"
    if not report or report.get("run") != manifest.run:
        return "it has no report of the conversion that made it"
    if manifest.plan == plan.fingerprint:
        return None
    if words_of(report.get("job")) != words_of(plan.job) or report.get("family") != plan.model_type:
        return "it was made by a job that asked for something else"
    return None if _files_said(report) == _files_planned(plan) else "it was made of another source, or of this one before it changed"


def words_of(job: Any) -> Any:
    """Of a job what decides what is written: of two that are alike here only how they are carried out may differ. Pure."""
    if not isinstance(job, Mapping):
        return None
    options = job.get("options")
    kept = {name: value for name, value in options.items() if name not in APART} if isinstance(options, Mapping) else {}
    return job.get("source"), job.get("target"), kept


def _files_said(report: Mapping[str, Any]) -> Any:
    source = report.get("source")
    files = source.get("files") if isinstance(source, Mapping) else None
    if not isinstance(files, list) or not all(isinstance(file, Mapping) for file in files):
        return None
    return [tuple(file.get(name, "" if name == "digest" else None) for name in CONTENT) for file in files]


def _files_planned(plan: Plan) -> list[tuple[Any, ...]]:
    digests = plan.source_digests or ("",) * len(plan.source_files)
    return [(file.path, file.size_bytes, file.mtime_ns, digest) for file, digest in zip(plan.source_files, digests, strict=True)]


def _check_whole(plan: Plan, directory: int) -> None:
    try:
        check_sizes(plan, directory)
        check_side_files(plan, directory)
        check_made(plan, directory)
        check_opens(plan, plan.target_path, plan.roots)
    except (VerifyError, SourceError) as error:
        raise TargetExists(
            f"{plan.target_path} was made by this job before, and is not what it writes now",
            facts=[error.message, *error.facts],
            do='set on_exists to "overwrite" to have it made again, or choose another target',
            details={"target": plan.target_path},
        ) from error


def _other(plan: Plan, why: str) -> TargetExists:
    return TargetExists(
        f"{plan.target_path} exists, and is not what this job writes: {why}",
        do='choose another target, or set on_exists to "overwrite"',
        details={"target": plan.target_path},
    )
