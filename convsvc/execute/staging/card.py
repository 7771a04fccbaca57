"""The report of a conversion as a model card: a page of Markdown that says what a directory is, and from what and how it was made. Pure.

It lies beside a Hugging Face target and, if `options.card` is "both", in it; the model's own README.md is not touched. It names no time and
no run, so that the same conversion writes the same card.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convsvc.dialects import target_of
from convsvc.plan.plan import Plan
from convsvc.units import in_bytes

# With this a card begins; readers of Markdown do not see it.
KEY = b"<!-- conversion report -->"
MOST_FILES = 200
# What a report says of a kind of note, in words for a reader who has never heard of it.
KINDS = {
    "lost": "Lost",
    "filled": "Filled in",
    "changed": "Changed",
    "ignored": "Left out",
    "carried": "Carried along",
    "advice": "To know",
}


def compose_card(report: Mapping[str, Any]) -> bytes:
    """The card of a report that `compose_report` made."""
    source, target = report["source"], report["target"]
    parts = [
        KEY.decode(),
        "# Conversion",
        f"This directory was made by convsvc {code(report['convsvc'])} from another checkpoint, and holds its weights.",
        _table(("", ""), _about(report)),
        "## How it was verified",
        f"{code(report['verified']['mode'])}: {text(report['verified']['what'] or 'nothing was verified')}.",
        *_notes(report["notes"]),
        "## Made from",
        _files(("file", "size", "digest", "digest of"), [_source_row(file) for file in source["files"]]),
        "## Files and their CRC-32",
        _files(("file", "size", "CRC-32", "tensors"), [_target_row(file) for file in (*target["files"], *target["side_files"])]),
        "`conversion-report.json` has all of this for programs, with the CRC-32 of every tensor and the job itself.",
    ]
    return ("\n\n".join(parts) + "\n").encode("utf-8", "backslashreplace")


def is_card(head: bytes) -> bool:
    """Whether a file that begins so is a card. Pure."""
    return head.startswith(KEY)


def wants_card(plan: Plan) -> bool:
    """Whether the job's target is published with one. Pure."""
    written = plan.job.get("target", {}).get("format")
    return bool(_card_of(plan) != "none" and written and target_of(written).has_card)


def goes_into_target(plan: Plan) -> bool:
    """Whether the job wants the card in the target too. Pure."""
    return _card_of(plan) == "both"


def _card_of(plan: Plan) -> str:
    return str(plan.job.get("options", {}).get("card", "beside"))


def code(value: object) -> str:
    r"""A name or a number as it is, whatever is in it: nothing of it is taken for Markdown or HTML.

    >>> code("a|b`c\n<script>")
    "`a¦b'c <script>`"
    """
    plain = re.sub(r"[\x00-\x1f\x7f]", " ", str(value)).replace("`", "'").replace("|", "¦").strip()
    return f"`{plain or ' '}`"


def text(value: object) -> str:
    r"""Words, with what Markdown or HTML would take for its own shown as it is.

    >>> text("3 < 4 and *so* [on](x)")
    '3 &lt; 4 and \\*so\\* \\[on\\](x)'
    """
    plain = re.sub(r"[\x00-\x1f\x7f]+", " ", str(value))
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", plain)


def _about(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    source, target, options = report["source"], report["target"], report["job"].get("options", {})
    sizes = [file["size_bytes"] for file in target["files"]]
    return [
        ("model family", code(report["family"])),
        ("from", f"{code(source['format'])}, {code(source['path'])}"),
        ("to", f"{code(target['format'])}, {len(sizes)} file{'' if len(sizes) == 1 else 's'} of tensors, {in_bytes(sum(sizes))}"),
        ("dtype", code(options["dtype"]) if options.get("dtype") else "as in the source"),
        ("plan", code(report["plan"])),
    ]


def _notes(notes: Mapping[str, Sequence[str]]) -> list[str]:
    if not notes:
        return []
    lines = [f"- {KINDS.get(kind, kind)}: {text(note)}" for kind, texts in notes.items() for note in texts]
    return ["## What to know", "\n".join(lines)]


def _source_row(file: Mapping[str, Any]) -> tuple[str, ...]:
    digest = code(file["digest"]) if file.get("digest") else "-"
    return code(file["path"]), in_bytes(file["size_bytes"]), digest, text(file.get("digest_of") or "-")


def _target_row(file: Mapping[str, Any]) -> tuple[str, ...]:
    crc = code(file["crc32"]) if file.get("crc32") else "-"
    return code(file["path"]), in_bytes(file["size_bytes"]), crc, str(file.get("tensors", "-"))


def _files(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown = _table(head, rows[:MOST_FILES])
    return shown if len(rows) <= MOST_FILES else f"{shown}\n\nand {len(rows) - MOST_FILES} more, in the report"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
