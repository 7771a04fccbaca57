"""Expected against found: every tensor the layout names must be there with its shape, and every tensor there must be named.

All faults of one kind come in one error, each with what was expected and what was found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from convsvc.dialects.base import Checkpoint, Entry, Found
from convsvc.errors import PlanError, SourceError
from convsvc.notes import Note
from convsvc.tensors.blocks import Block, Laid
from convsvc.tensors.dtypes import FLOATS

SHOWN, SHOWN_NOTES, SHOWN_KINDS = 12, 4, 3
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
READ = FLOATS | {"F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True, slots=True)
class Located:
    """An entry of the source's layout with the stored tensor that is it."""

    entry: Entry
    key: tuple[str, str]
    found: Found

    def blocks(self) -> Iterator[Block]:
        return (block for block in self.entry.laid.blocks if block.volume)


def match_source(
    entries: Sequence[Entry], checkpoint: Checkpoint, ignores: Callable[[tuple[str, str]], str | None], family: str
) -> tuple[tuple[Located, ...], tuple[Note, ...]]:
    """The located entries, and a note for each kind of tensor that is ignored.

    Raises PlanError if tensors are missing, have another shape, or are left over.
    """
    located: list[Located] = []
    missing: list[Entry] = []
    without: list[Entry] = []
    misshapen: list[tuple[Entry, Found]] = []
    for entry in entries:
        match = _find(entry, checkpoint.found)
        if match is None:
            (without if entry.laid.optional else missing).append(entry)
            continue
        key, found = match
        if found.tensor.shape != entry.laid.shape:
            misshapen.append((entry, found))
        located.append(Located(entry, key, found))
    missing += _lacking_here(without, located)
    claimed = {each.key for each in located}
    left, notes = _leftovers(checkpoint, claimed, ignores)
    if missing or misshapen or left:
        raise _mismatch(checkpoint, family, _Faults(missing, misshapen, left))
    return tuple(located), notes


def _lacking_here(without: Iterable[Entry], located: Iterable[Located]) -> list[Entry]:
    """Entries of what a checkpoint may do without, where it does not: other files have the same part of the same tensor."""

    def parts(laid: Laid) -> Iterator[tuple[str, str]]:
        return ((laid.name, block.tensor.name) for block in laid.blocks)

    held = {part for each in located if each.entry.laid.optional for part in parts(each.entry.laid)}
    return [entry for entry in without if any(part in held for part in parts(entry.laid))]


def _find(entry: Entry, found: Mapping[tuple[str, str], Found]) -> tuple[tuple[str, str], Found] | None:
    for name in (entry.laid.name, *entry.laid.also):
        key = entry.key(name)
        if key in found:
            return key, found[key]
    return None


def _leftovers(
    checkpoint: Checkpoint, claimed: set[tuple[str, str]], ignores: Callable[[tuple[str, str]], str | None]
) -> tuple[list[tuple[str, str]], tuple[Note, ...]]:
    left: list[tuple[str, str]] = []
    reasons: dict[str, list[str]] = {}
    for key in checkpoint.found:
        if key not in claimed:
            reason = ignores(key)
            if reason is None:
                left.append(key)
            else:
                reasons.setdefault(reason, []).append(key[1])
    notes = tuple(Note("ignored", f"{len(names)} tensor(s), e.g. {names[0]}: {reason}") for reason, names in reasons.items())
    return left, notes


@dataclass(frozen=True, slots=True)
class _Faults:
    missing: Sequence[Entry]
    misshapen: Sequence[tuple[Entry, Found]]
    left: Sequence[tuple[str, str]]

    @property
    def counts(self) -> str:
        groups = ((self.missing, "missing"), (self.misshapen, "of another shape"), (self.left, "left over"))
        return ", ".join(f"{len(group)} {what}" for group, what in groups if group)


def _mismatch(checkpoint: Checkpoint, family: str, faults: _Faults) -> PlanError:
    reason, do = _reason(checkpoint, family, faults)
    return PlanError(
        f"{checkpoint.path} {reason}",
        facts=[*_lines(checkpoint, faults), *(f"note      {note.text}" for note in checkpoint.notes[:SHOWN_NOTES])],
        do=do,
        details={
            "missing": [entry.laid.name for entry in faults.missing],
            "misshapen": [entry.laid.name for entry, _ in faults.misshapen],
            "left_over": [key[1] for key in faults.left],
        },
    )


def _lines(checkpoint: Checkpoint, faults: _Faults) -> list[str]:
    """Every fault, the first of each kind: what was expected, what was found."""
    missing = [f"missing   {_where(entry.file)}{entry.laid.name} {list(entry.laid.shape)}" for entry in faults.missing]
    misshapen = [
        f"shape     {_where(entry.file)}{entry.laid.name}: expected {list(entry.laid.shape)}, found {list(found.tensor.shape)}"
        for entry, found in faults.misshapen
    ]
    left = [f"left over {_where(key[0])}{key[1]} {list(checkpoint.found[key].tensor.shape)}" for key in faults.left]
    return _shorten(missing) + _shorten(misshapen) + _shorten(left)


def _reason(checkpoint: Checkpoint, family: str, faults: _Faults) -> tuple[str, str]:
    """Why it does not match, as far as the faults tell, and what to do."""
    origin, counts = checkpoint.facts.origin, faults.counts
    check = f"check model_type ({family}) and the configuration ({origin})"
    if faults.left and not faults.missing and not faults.misshapen:
        return f"holds more than a {family} checkpoint: {counts} ({_kinds([key[1] for key in faults.left])})", (
            f"{check}: what is left over has no place in this model, and would be lost"
        )
    if faults.misshapen and not faults.missing and not faults.left:
        turned = any(_is_turned(entry.laid.shape, found.tensor.shape) for entry, found in faults.misshapen)
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


def _missing(checkpoint: Checkpoint, missing: Sequence[Entry]) -> str:
    """What is missing: the layers of which there is nothing, else the kinds of names."""
    names = [entry.laid.name for entry in missing if not entry.file]
    there = {int(found[1]) for _, name in checkpoint.found if (found := LAYER.search(name))}
    gone = sorted({int(found[1]) for name in names if (found := LAYER.search(name))} - there)
    if not gone:
        return _kinds([entry.laid.name for entry in missing])
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


def check_floats(located: Sequence[Located], checkpoint: Checkpoint, integers: frozenset[str]) -> None:
    """Weights are floats; `integers` are the full names of the logical tensors that are not. What is carried is not judged.

    Raises SourceError naming those that are stored as integers: a way of quantising nobody knows, or not weights at all.
    """
    if all(found.tensor.dtype in READ for found in checkpoint.found.values()):
        return
    wrong = [
        each
        for each in located
        if each.found.value_dtype not in FLOATS
        and each.entry.unit != "carried"
        and not all(block.tensor.name in integers for block in each.entry.laid.blocks)
    ]
    if wrong:
        raise SourceError(
            f"{checkpoint.path}: {len(wrong)} weights are stored as integers without a scale: quantised in a way that is not known",
            facts=_shorten([f"{_where(each.entry.file)}{each.key[1]}: {each.found.tensor.dtype}" for each in wrong]),
            do="give the checkpoint in bf16, fp16, fp32 or float8: without scales the numbers mean nothing",
        )


def _where(file: str) -> str:
    return f"{file}: " if file else ""


def _shorten(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"          and {len(lines) - SHOWN} more"]
