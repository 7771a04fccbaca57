"""Where a staging directory keeps its private files. Paths are relative to it."""

from __future__ import annotations

PRIVATE = ".convsvc"
FINGERPRINT = f"{PRIVATE}/fingerprint"
# Workers look for these between steps: shall they stop, and is it still their run?
CANCEL = f"{PRIVATE}/cancel"
FENCE = f"{PRIVATE}/fence"
# There once checksums and side files are in place: from then on nothing writes into the target's files.
SEALED = f"{PRIVATE}/sealed"
# What publishing does, so that whoever comes after a crash can undo or finish it; and what goes beside the target.
JOURNAL = f"{PRIVATE}/publishing.json"
REPORT_COPY, CARD_COPY, PICTURE_COPY = (f"{PRIVATE}/report.{kind}" for kind in ("json", "md", "html"))
TASKS = f"{PRIVATE}/tasks"
MARKS = f"{PRIVATE}/marks"
MOVED = f"{PRIVATE}/moved"


# What the mark of a task that hashed calls the hashes of the files it wrote, by their paths.
HASHES = "sha256"


def pack_path(mode: str) -> str:
    """The file of all tasks. Verifying reads what writing wrote, so it has none of its own."""
    return f"{TASKS}/{'compare' if mode == 'compare' else 'write'}.pack"


def mark_path(mode: str, task: int) -> str:
    """The file whose presence says that the task is done in this mode."""
    return f"{MARKS}/{mode}-{task}.json"


def moved_path(mode: str, task: int) -> str:
    """Where the task's worker says how many bytes it has moved."""
    return f"{MOVED}/{mode}-{task}"
