"""The report of a conversion: what was read, what was made of it, what a user should know, and how it was verified. Pure.

It is JSON, lies beside the target and, unless `options.report` is "beside", in it. `docs/targets.md` says what each field means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convsvc.dialects.output import REPORT
from convsvc.formats import FORMATS
from convsvc.notes import KINDS, Note
from convsvc.plan.plan import Plan

# The key that tells a report from any other file, and the version of its form.
KEY, FORM = "conversion_report", 1
# With more the digests of the files stand for those of their tensors, so that a report of a trillion parameters stays readable.
MOST_TENSORS = 100_000
PROVES = {
    "none": "nothing was read again",
    "digest": "every byte of every tensor was read again from the target's storage and has the digest it had when it was written",
    "full": "as roundtrip; and headers, checksums and side files were compared byte for byte, and safetensors and torch opened every file",
    "roundtrip": "as digest; and from the written files every value of the source was made again and compared with it, bit for bit",
}


@dataclass(frozen=True, slots=True)
class Ran:
    """What the driver knows of a run. `verified` is by phase: what it counted there. `ended_at` is a time in ISO 8601."""

    verify: str = "none"
    ended_at: str = ""
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    verified: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[Note] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the CRC-32 of each of the plan's target files (None where it is not known), size and CRC-32 of each side file, and
    the CRC-32 in hex of every "file/tensor"."""

    file_crcs: Sequence[int | None]
    side_files: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, str]


def compose_report(plan: Plan, run: str, version: str, ran: Ran, written: Written) -> dict[str, Any]:
    """The report, as JSON. `run` is the word that the target's manifest has too."""
    return {
        KEY: FORM,
        "convsvc": version,
        "run": run,
        "ended_at": ran.ended_at,
        "family": plan.model_type,
        "facts": plan.facts,
        "plan": plan.fingerprint,
        # A webhook's address may hold a secret, and whoever reads the target may read this.
        "job": {name: value for name, value in plan.job.items() if name != "webhook"},
        "notes": {kind: texts for kind in KINDS if (texts := [note.text for note in ran.notes if note.kind == kind])},
        "verified": {"mode": ran.verify, "what": PROVES.get(ran.verify, ""), **ran.verified},
        "source": {"format": _side(plan, "source", "format"), "path": _side(plan, "source", "path"), "files": _source_files(plan)},
        "target": {
            "format": _side(plan, "target", "format"),
            "path": plan.target_path,
            "files": _target_files(plan, written),
            "side_files": _side_files(plan, written),
        },
        "took": {**ran.counts, "phase_seconds": {name: round(seconds, 3) for name, seconds in ran.phase_seconds.items()}},
    }


def dump_report(report: Mapping[str, Any]) -> bytes:
    return json.dumps(report, indent=1).encode() + b"\n"


def is_report(head: bytes) -> bool:
    """Whether a file that begins so is a report. Pure."""
    return head.lstrip().removeprefix(b"{").lstrip().startswith(f'"{KEY}"'.encode())


def notes_in(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The notes of a report, as `Note.as_dict` gives them; those that are none are left out. Pure."""
    found = report.get("notes")
    kinds = found if isinstance(found, dict) else {}
    return [{"kind": kind, "text": text} for kind in KINDS for text in kinds.get(kind, ()) if isinstance(text, str)]


def goes_into_target(plan: Plan) -> bool:
    """Whether the job wants the report in the target too."""
    return bool(plan.job.get("options", {}).get("report", "both") == "both")


def _side(plan: Plan, side: str, name: str) -> Any:
    return plan.job.get(side, {}).get(name)


def _source_files(plan: Plan) -> list[dict[str, Any]]:
    digests = plan.source_digests or ("",) * len(plan.source_files)
    return [
        {"path": file.path, "size_bytes": file.size_bytes, "modified_ns": file.mtime_ns}
        | ({"digest": digest, "digest_of": FORMATS[file.format].DIGEST_OF} if digest else {})
        for file, digest in zip(plan.source_files, digests, strict=True)
    ]


def _target_files(plan: Plan, written: Written) -> list[dict[str, Any]]:
    counts = [0] * len(plan.target_files)
    tensors: list[dict[str, str]] = [{} for _ in plan.target_files]
    is_listed = len(written.tensors) <= MOST_TENSORS
    for tensor in plan.target_tensors:
        counts[tensor.file] += 1
        if is_listed:
            crc = written.tensors.get(f"{plan.target_files[tensor.file].path}/{tensor.name}")
            tensors[tensor.file] |= {tensor.name: crc} if crc is not None else {}
    return [
        {"path": file.path, "size_bytes": file.size_bytes, "crc32": None if crc is None else f"{crc:08x}", "tensors": counts[number]}
        | ({"tensor_crc32": tensors[number]} if is_listed else {})
        for number, (file, crc) in enumerate(zip(plan.target_files, written.file_crcs, strict=True))
    ]


def _side_files(plan: Plan, written: Written) -> list[dict[str, Any]]:
    copied = {side.path: side.copy_from for side in plan.side_files if side.copy_from is not None}
    return [
        {"path": path, "size_bytes": size, "crc32": f"{crc:08x}"} | ({"copied_from": copied[path]} if path in copied else {})
        for path, (size, crc) in written.side_files.items()
        if path != REPORT
    ]
