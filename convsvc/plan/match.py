"""Expected against found: every tensor the layout names must be there with its shape, and every tensor there must be named.

All faults of one kind come in one error, each with what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from convsvc.dialects.base import Checkpoint, Entry, Found
from convsvc.errors import PlanError
from convsvc.notes import Note
from convsvc.tensors.blocks import Block

SHOWN = 12


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
    located, missing, misshapen = [], [], []
    for entry in entries:
        match = _find(entry, checkpoint.found)
        if match is None:
            if not entry.laid.optional:
                missing.append(entry)
            continue
        key, found = match
        if found.tensor.shape != entry.laid.shape:
            misshapen.append((entry, found))
        located.append(Located(entry, key, found))
    claimed = {each.key for each in located}
    left, notes = _leftovers(checkpoint, claimed, ignores)
    if missing or misshapen or left:
        raise _mismatch(checkpoint, family, missing, misshapen, left)
    return tuple(located), notes


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


def _mismatch(
    checkpoint: Checkpoint,
    family: str,
    missing: Sequence[Entry],
    misshapen: Sequence[tuple[Entry, Found]],
    left: Sequence[tuple[str, str]],
) -> PlanError:
    facts: list[str] = []
    facts += _shorten([f"missing   {_where(entry.file)}{entry.laid.name} {list(entry.laid.shape)}" for entry in missing])
    facts += _shorten(
        [
            f"shape     {_where(entry.file)}{entry.laid.name}: expected {list(entry.laid.shape)}, found {list(found.tensor.shape)}"
            for entry, found in misshapen
        ]
    )
    facts += _shorten([f"left over {_where(key[0])}{key[1]} {list(checkpoint.found[key].tensor.shape)}" for key in left])
    counts = [
        f"{len(group)} {what}" for group, what in ((missing, "missing"), (misshapen, "of another shape"), (left, "left over")) if group
    ]
    return PlanError(
        f"{checkpoint.path} is not a complete {family} checkpoint: {', '.join(counts)}",
        facts=facts,
        do=f"check model_type ({family}), the configuration ({checkpoint.facts.origin}), and that every file was fetched",
        details={
            "missing": [entry.laid.name for entry in missing],
            "misshapen": [entry.laid.name for entry, _ in misshapen],
            "left_over": [key[1] for key in left],
        },
    )


def _where(file: str) -> str:
    return f"{file}: " if file else ""


def _shorten(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"          and {len(lines) - SHOWN} more"]
