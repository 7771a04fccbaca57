"""Logical tensors that a source does without, because its family says that a checkpoint may (biases that a tool dropped). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from convsvc.dialects.layout import Layout
from convsvc.errors import PlanError
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.plan.match import Inventory


def find_absent(layout: Layout, inventory: Inventory, model: Model) -> tuple[frozenset[str], tuple[Note, ...]]:
    """The full names of the logical tensors that the source does not hold, and a note for each kind of them.

    Copies that stand in for each other (`Model.same_as`) do not count. Raises PlanError if only some layers are without: a checkpoint
    that is incomplete looks like that.
    """
    named = {block.tensor.name for laid in layout.kinds for block in laid.blocks}
    held = inventory.tensors()
    absent = frozenset(name for name in named - held if name not in model.same_as)
    if not absent:
        return absent, ()
    kinds = {_kind(name) for name in absent}
    partly = sorted(name for name in held if _kind(name) in kinds)
    if partly:
        missing = sorted(name for name in absent if _kind(name) in {_kind(each) for each in partly})
        raise PlanError(
            f"{len(missing)} logical tensors are missing which other layers have",
            facts=[f"missing {name}" for name in missing[:12]],
            do="check that every file was fetched; what a model can do without, all of its layers are without",
        )
    return absent, tuple(_note(kind, absent) for kind in sorted(kinds))


def _kind(name: str) -> str:
    """The name without its layer's number."""
    return re.sub(r"\.\d+\.", ".*.", name, count=1)


def _note(kind: str, absent: Iterable[str]) -> Note:
    count = sum(_kind(name) == kind for name in absent)
    text = f"the source has no {kind} ({count}), and so has the target: the model computes without it, or with what it is initialised to"
    return Note("advice", text)
