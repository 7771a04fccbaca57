"""Names that are the family's but for one prefix: a model saved without its head's class, compiled, wrapped, or out of a larger one.

Published without `model.` (Qwen3-Embedding), or under `_orig_mod.` (torch.compile), `module.` (DistributedDataParallel),
`language_model.` or `model.language_model.` (the text part of a model that sees). transformers loads the first and the last kind too
(core_model_loading.py, PrefixChange). One change is decided from all names; which tensors then fit, matching proves. A family may
also have names that another library gives all of its tensors (`Family.spelling`). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from convsvc.dialects.checkpoint import Checkpoint
from convsvc.models.family import Family
from convsvc.notes import Note


@dataclass(frozen=True, slots=True)
class Change:
    """Names of a checkpoint that begin with `stored` are the family's once that is `named`; names that are the family's stay."""

    stored: str
    named: str

    def __str__(self) -> str:
        if not self.stored:
            return f"without {self.named!r} in front"
        return f"with {self.stored!r} " + (f"in place of {self.named!r}" if self.named else "in front")


def by_family_names(checkpoint: Checkpoint, family: Family) -> Checkpoint:
    """The checkpoint with its tensors by the family's names; each still knows the name that it is stored under."""
    if all(any(("", name) in checkpoint.found for name in names) for names in (_anchors(family), *_towers_anchors(family))):
        return checkpoint
    checkpoint = _respelled(checkpoint, family)
    names = [name for _, name in checkpoint.found]
    change = find_change(names, family)
    if change is None:
        return checkpoint
    fitting = _fitting(family)
    found = {(file, _renamed(name, change, fitting)): each for (file, name), each in checkpoint.found.items()}
    if len(found) < len(names):
        return checkpoint
    count = sum(1 for name, (_, new) in zip(names, found, strict=True) if name != new)
    note = Note("changed", f"{count} of {len(names)} tensors are stored {change}: they are read by the usual names of {family.name}")
    return replace(checkpoint, found=found, notes=(*checkpoint.notes, note))


def _respelled(checkpoint: Checkpoint, family: Family) -> Checkpoint:
    """The checkpoint with the names that another library gives the family's tensors in the family's own spelling."""
    rules = [(re.compile(pattern), new) for pattern, new in family.spelling]
    new_names = {key: _spelled(key[1], rules) for key in checkpoint.found}
    count = sum(name != new for (_, name), new in new_names.items())
    found = {(file, new_names[file, name]): each for (file, name), each in checkpoint.found.items()}
    if not count or len(found) < len(new_names):
        return checkpoint
    note = Note(
        "changed", f"{count} of {len(found)} tensors are stored under another library's names: they are read by {family.name}'s own"
    )
    return replace(checkpoint, found=found, notes=(*checkpoint.notes, note))


def _spelled(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, new in rules:
        name = pattern.sub(new, name)
    return name


def change_names(names: Iterable[str], change: Change, family: Family) -> dict[str, str]:
    """Every name, and what it is after a change; the names of the family stay as they are."""
    fitting = _fitting(family)
    return {name: _renamed(name, change, fitting) for name in names}


def find_change(names: Iterable[str], family: Family) -> Change | None:
    """The change of prefix under which most names fit the family; None where they fit as they are, or no change helps."""
    names = set(names)
    anchors = _anchors(family)
    if not names.isdisjoint(anchors):
        return None
    changes = {change for name in names for anchor in anchors if (change := _change_between(name, anchor)) is not None}
    if not changes:
        return None
    fitting = _fitting(family)

    def count(change: Change) -> int:
        return sum(fitting.match(_renamed(name, change, fitting)) is not None for name in names)

    best = max(sorted(changes, key=lambda change: (change.stored, change.named)), key=count)
    return best if count(best) > sum(fitting.match(name) is not None for name in names) else None


def _anchors(family: Family) -> list[str]:
    """The names of the word embedding, which every model has once."""
    return [name for row in family.embedding for name in (row.stored, *row.also)]


def _towers_anchors(family: Family) -> list[list[str]]:
    """The names of what comes first in each module that begins with something: of one that a library spells otherwise there is none."""
    return [[tower.prefix + tower.before[0].stored] for tower in family.towers if tower.before]


def _change_between(name: str, anchor: str) -> Change | None:
    """What turns one name into the other, if they end in the same two parts at least.

    >>> _change_between("language_model.embed_tokens.weight", "model.embed_tokens.weight")
    Change(stored='language_model.', named='model.')
    """
    parts = anchor.split(".")
    for kept in range(len(parts), 1, -1):
        end = ".".join(parts[-kept:])
        if name == end or name.endswith("." + end):
            return Change(name[: len(name) - len(end)], anchor[: len(anchor) - len(end)])
    return None


def _renamed(name: str, change: Change, fitting: re.Pattern[str]) -> str:
    if fitting.match(name) or not name.startswith(change.stored):
        return name
    return change.named + name[len(change.stored) :]


def _fitting(family: Family) -> re.Pattern[str]:
    """What the family's names begin with: the layers' prefixes, and the names outside of layers."""
    prefixes = [family.layer_prefix, *(tower.prefix for tower in family.towers)]
    if family.mtp is not None:
        prefixes += [family.mtp.prefix, family.mtp.block_prefix or family.mtp.prefix]
    starts = [re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(prefix)) for prefix in dict.fromkeys(prefixes) if prefix]
    rows = (*family.embedding, *family.final_norm, *family.output, *family.tied_output)
    whole = {re.escape(name) + "$" for row in rows for name in (row.stored, *row.also)}
    return re.compile("|".join([*starts, *sorted(whole)]))
