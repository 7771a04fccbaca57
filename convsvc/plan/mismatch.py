"""What a source and its layout differ in, in words: all faults of a kind in one error, what was expected and what was found. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from convsvc.dialects.checkpoint import Checkpoint
from convsvc.errors import PlanError
from convsvc.tensors.blocks import Laid

Key = tuple[str, str]
SHOWN, SHOWN_NOTES, SHOWN_KINDS, SHOWN_FILES = 12, 4, 3, 3
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


class Absent(NamedTuple):
    """A stored tensor that is not where the layout has it."""

    file: str
    laid: Laid


class Lack(NamedTuple):
    """Elements that no file holds: of a tensor that any of `files` might have held; `gaps` are the logical tensors' parts, in words."""

    laid: Laid
    gaps: tuple[str, ...]
    files: tuple[str, ...]


class Misshapen(NamedTuple):
    """A stored tensor that has another shape than the layout's."""

    file: str
    laid: Laid
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Faults:
    """Everything in which a source is not what its layout says."""

    absent: Sequence[Absent]
    lacking: Sequence[Lack]
    misshapen: Sequence[Misshapen]
    left: Sequence[Key]

    @property
    def missing(self) -> list[Absent]:
        """What is missing, once a tensor; of what several files might hold, the first of them."""
        return [*self.absent, *(Absent(each.files[0], each.laid) for each in self.lacking)]

    @property
    def counts(self) -> str:
        groups = ((self.missing, "missing"), (self.misshapen, "of another shape"), (self.left, "left over"))
        return ", ".join(f"{len(group)} {what}" for group, what in groups if group)


def mismatch(checkpoint: Checkpoint, family: str, faults: Faults) -> PlanError:
    """The error for what does not match, which says as far as it can be seen why."""
    reason, do = _reason(checkpoint, family, faults)
    return PlanError(
        f"{checkpoint.path} {reason}",
        facts=[*_lines(checkpoint, faults), *(f"note      {note.text}" for note in checkpoint.notes[:SHOWN_NOTES])],
        do=do,
        details={
            "missing": [each.laid.name for each in faults.missing],
            "misshapen": [each.laid.name for each in faults.misshapen],
            "left_over": [key[1] for key in faults.left],
        },
    )


def _lines(checkpoint: Checkpoint, faults: Faults) -> list[str]:
    """Every fault, the first of each kind: what was expected, what was found."""
    missing = [f"missing   {in_file(each.file)}{each.laid.name} {list(each.laid.shape)}" for each in faults.absent]
    missing += [f"missing   {each.laid.name} {list(each.laid.shape)}: {_lack(each)}" for each in faults.lacking]
    misshapen = [
        f"shape     {in_file(each.file)}{each.laid.name}: expected {list(each.laid.shape)}, found {list(each.shape)}"
        for each in faults.misshapen
    ]
    left = [f"left over {in_file(key[0])}{key[1]} {list(checkpoint.found[key].tensor.shape)}" for key in faults.left]
    return shorten(missing) + shorten(misshapen) + shorten(left)


def _lack(lack: Lack) -> str:
    """Which elements of which logical tensors, and the files that could have held them."""
    files, more = lack.files[:SHOWN_FILES], len(lack.files) - SHOWN_FILES
    where = ", ".join(files) + (f" and {more} more" if more > 0 else "")
    return f"no file holds {', '.join(lack.gaps)}; it should be in {'one of ' if len(lack.files) > 1 else ''}{where}"


def _reason(checkpoint: Checkpoint, family: str, faults: Faults) -> tuple[str, str]:
    """Why it does not match, as far as the faults tell, and what to do."""
    origin, counts = checkpoint.facts.origin, faults.counts
    check = f"check model_type ({family}) and the configuration ({origin})"
    if faults.left and not faults.missing and not faults.misshapen:
        return f"holds more than a {family} checkpoint: {counts} ({_kinds([key[1] for key in faults.left])})", (
            f"{check}: what is left over has no place in this model, and would be lost"
        )
    if faults.misshapen and not faults.missing and not faults.left:
        turned = any(_is_turned(each.laid.shape, each.shape) for each in faults.misshapen)
        if turned:
            return f"is no {family} checkpoint as it is read: {counts}, with axes exchanged", (
                "save it in the usual orientation: a tensor that lies the other way round is another tool's form of the model"
            )
        return f"does not fit its configuration: {counts}", f"check the numbers in {origin}: they are not those of these weights"
    if faults.missing and not faults.misshapen and not faults.left:
        return f"is not a complete {family} checkpoint: {counts} ({_missing(checkpoint, faults.missing)})", (
            f"fetch or save it again with these tensors: none of its {len(checkpoint.files)} file(s) holds them; or {check}"
        )
    if faults.missing and len(faults.left) >= len(checkpoint.found) // 2:
        return f"has not the names of a {family} checkpoint: {counts}", check
    return f"is not a complete {family} checkpoint: {counts}", check


def _missing(checkpoint: Checkpoint, missing: Sequence[Absent]) -> str:
    """What is missing: the layers of which there is nothing, else the kinds of names."""
    names = [each.laid.name for each in missing if not each.file]
    there = {int(found[1]) for _, name in checkpoint.found if (found := LAYER.search(name))}
    gone = sorted({int(found[1]) for name in names if (found := LAYER.search(name))} - there)
    if not gone:
        return _kinds([each.laid.name for each in missing])
    runs = [list(run) for _, run in groupby(gone, key=lambda layer: layer - gone.index(layer))]
    return "there is nothing of layers " + ", ".join(
        f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:SHOWN_KINDS]
    )


def _kinds(names: Sequence[str]) -> str:
    """The kinds of names, layers and experts apart, the most frequent first.

    >>> _kinds(["layers.0.q.bias", "layers.1.q.bias", "visual.patch"])
    '2 layers.*.q.bias, 1 visual.patch'
    """
    kinds = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names).most_common()
    return ", ".join(f"{count} {kind}" for kind, count in kinds[:SHOWN_KINDS]) + (" and others" if len(kinds) > SHOWN_KINDS else "")


def _is_turned(expected: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Whether a matrix, or every matrix of a stack, lies the other way round."""
    return len(expected) == len(found) >= 2 and found == (*expected[:-2], expected[-1], expected[-2])


def in_file(file: str) -> str:
    """How a fact about something in a file begins; nothing where the name alone tells."""
    return f"{file}: " if file else ""


def shorten(lines: list[str]) -> list[str]:
    """The first of the lines, and how many more there are."""
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"          and {len(lines) - SHOWN} more"]
