"""Expected against found: every tensor the layout names must be there with its shape, and every tensor there must be named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.dialects.layout import Entry, Layout
from convsvc.errors import SourceError
from convsvc.notes import Note
from convsvc.plan.mismatch import Absent, Faults, Key, Lack, Misshapen, in_file, mismatch, shorten
from convsvc.plan.spares import Covered
from convsvc.plan.turning import turned
from convsvc.tensors.blocks import Laid
from convsvc.tensors.dtypes import FLOATS
from convsvc.tensors.quick import quick

READ = FLOATS | {"F8_E4M3", "F8_E5M2"}


class Located(NamedTuple):
    """An entry of a source's layout with the stored tensor that is it: `key` is its file and its name there."""

    kind: int
    unit: str
    key: Key
    found: Found


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a source holds of its layout: the layout's kinds, and of its entries those that are there."""

    kinds: tuple[Laid, ...]
    entries: tuple[Located, ...]

    def held(self) -> list[Laid]:
        """The kinds of which there is one, in the order of the first of each."""
        return [self.kinds[kind] for kind in dict.fromkeys([each.kind for each in self.entries])]

    def tensors(self) -> set[str]:
        """The full names of the logical tensors that are held, whole or in part."""
        return {block.tensor.name for laid in self.held() for block in laid.blocks}

    def joined(self, other: Inventory) -> Inventory:
        """This one's tensors and then the other's."""
        first = len(self.kinds)
        moved = tuple([each._replace(kind=first + each.kind) for each in other.entries])
        return Inventory(self.kinds + other.kinds, self.entries + moved)


def match_source(
    layout: Layout, checkpoint: Checkpoint, ignores: Callable[[Key], str | None], family: str
) -> tuple[Inventory, tuple[Note, ...]]:
    """The entries that are there, and a note for each kind of tensor that is ignored.

    Raises PlanError if tensors are missing, have another shape, or are left over.
    """
    kinds, found = layout.kinds, checkpoint.found
    held = list(kinds)  # as they are stored: some are turned
    located: list[Located] = []
    without: list[Entry] = []
    misshapen: list[Misshapen] = []
    for entry in layout.entries:
        file, kind, unit, _ = entry
        laid = kinds[kind]
        key = file, laid.name
        if laid.also and key not in found:
            key = next(((file, name) for name in laid.also if (file, name) in found), key)
        there = found.get(key)
        if there is None:
            without.append(entry)
            continue
        if there.encoded is not None:
            there = there.shaped(laid.shape)
            if there.encoded is not None and there.encoded.form.turned and there.tensor.shape == laid.shape:
                held[kind] = turned(laid)
        if there.tensor.shape != laid.shape:
            misshapen.append(Misshapen(file, laid, there.tensor.shape))
        located.append(quick(Located, (kind, unit, key, there)))
    inventory = Inventory(tuple(held), tuple(located))
    missing, lacking = _missing(without, inventory) if without else ([], [])
    left, notes = _leftovers(checkpoint, {each.key for each in located}, ignores)
    if missing or lacking or misshapen or left:
        raise mismatch(checkpoint, family, Faults(missing, lacking, misshapen, left))
    return inventory, notes


def _missing(without: Iterable[Entry], inventory: Inventory) -> tuple[list[Absent], list[Lack]]:
    """What of the entries that are not there should be: those that nothing stands for, and elements that all spare ones are without."""
    kinds, covered = inventory.kinds, Covered(inventory.kinds, {each.kind for each in inventory.entries})
    plain: list[Entry] = []
    optional: list[Entry] = []
    spares: dict[int, list[str]] = {}
    for entry in without:
        if entry.spare and covered.holds(entry.kind):
            continue
        if kinds[entry.kind].optional:
            optional.append(entry)
        elif entry.spare:
            spares.setdefault(entry.kind, []).append(entry.file)
        else:
            plain.append(entry)
    absent = [Absent(entry.file, kinds[entry.kind]) for entry in (*plain, *_lacking_here(optional, inventory))]
    return absent, [Lack(kinds[kind], covered.gaps(kind), tuple(files)) for kind, files in spares.items()]


def _lacking_here(without: Iterable[Entry], inventory: Inventory) -> list[Entry]:
    """Entries of what a checkpoint may do without, where it does not: other files have the same part of the same tensor."""

    def parts(laid: Laid) -> Iterator[tuple[str, str]]:
        return ((laid.name, block.tensor.name) for block in laid.blocks)

    held = {part for laid in inventory.held() if laid.optional for part in parts(laid)}
    return [entry for entry in without if any(part in held for part in parts(inventory.kinds[entry.kind]))]


def _leftovers(checkpoint: Checkpoint, claimed: set[Key], ignores: Callable[[Key], str | None]) -> tuple[list[Key], tuple[Note, ...]]:
    left: list[Key] = []
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


def check_floats(inventory: Inventory, checkpoint: Checkpoint, integers: frozenset[str]) -> None:
    """Weights are floats; `integers` are the full names of the logical tensors that are not. What is carried is not judged.

    Raises SourceError naming those that are stored as integers: a way of quantising nobody knows, or not weights at all.
    """
    if all(found.tensor.dtype in READ for found in checkpoint.found.values()):
        return
    wrong = [
        each
        for each in inventory.entries
        if each.found.value_dtype not in FLOATS
        and each.unit != "carried"
        and not all(block.tensor.name in integers for block in inventory.kinds[each.kind].blocks)
    ]
    if wrong:
        raise SourceError(
            f"{checkpoint.path}: {len(wrong)} weights are stored as integers without a scale: quantised in a way that is not known",
            facts=shorten([f"{in_file(each.key[0])}{each.key[1]}: {each.found.tensor.dtype}" for each in wrong]),
            do="give the checkpoint in bf16, fp16, fp32 or float8: without scales the numbers mean nothing",
        )
