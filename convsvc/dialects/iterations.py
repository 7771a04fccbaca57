"""What a training run has saved in its directory: one checkpoint an iteration, and how far training says it has come."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from convsvc.errors import SourceError
from convsvc.formats.regular_file import open_regular
from convsvc.roots import RootedPath

# Written once an iteration is whole (megatron/training/checkpointing.py save_checkpoint; mindformers and others do the same).
TRACKER = "latest_checkpointed_iteration.txt"
MAX_TRACKER_BYTES = 4096
# checkpoint-500 (transformers), global_step_100 (verl, DeepSpeed), step-100 (torchtitan), iter_0000100 (Megatron), 100.
NUMBERED = re.compile(r"(?:[A-Za-z][A-Za-z0-9._-]*[-_])?(\d{1,12})")
# transformers saves in tmp-checkpoint-500 and renames it.
UNFINISHED = re.compile(r"tmp[-_]|.*[-_.](tmp|part|incomplete)\b", re.IGNORECASE)


class Iteration(NamedTuple):
    """One iteration of a training run: its number, the directory that holds it (a name in the run's), and what a job's source says to
    mean it. `is_finished`: training itself says that it is whole, or never says such a thing."""

    number: int
    folder: str
    says: Mapping[str, str]
    is_finished: bool


def numbered_folders(root: RootedPath, pattern: re.Pattern[str] = NUMBERED) -> dict[int, str]:
    """The directories of iterations in a run's directory, by their numbers, which are the pattern's group.

    Of two with one number that with the shorter name counts. Raises SourceError, StorageError.
    """
    found: dict[int, str] = {}
    for name in sorted(root.names(), key=lambda name: (-len(name), name)):
        match = pattern.fullmatch(name)
        if match and not UNFINISHED.match(name) and (root / name).is_dir():
            found[int(match[1])] = name
    return found


def tracked(root: RootedPath) -> int | None:
    """The last iteration that training says it has saved whole; None where it keeps no word of that, -1 where it has none yet."""
    if not (root / TRACKER).is_file():
        return None
    try:
        with open_regular(root / TRACKER, may_be_empty=True) as file:
            text = file.read(0, min(file.size_bytes, MAX_TRACKER_BYTES), "the iteration").decode("utf-8", "replace").strip()
    except SourceError:
        return -1  # it is being written
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else -1
