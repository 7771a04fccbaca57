"""Which copies are compared: all that a source holds, or as many as the job says; never fewer than lie under other names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from convsvc.dialects.layout import Layout
from convsvc.errors import SourceError
from convsvc.models.model import Model
from convsvc.plan.copies import SMALL_BYTES, choose_checks, left_out_copies
from convsvc.plan.records import Operand, Place, PlannedTensor, Transfer, Transform, View
from convsvc.plan.transfers import gather, make_transfers
from convsvc.tensors.blocks import Laid, lay
from convsvc.tensors.declare import logical, row

SIZES = {"ffn": 8, "hidden": 4}
# Number 1 is another rank's, number 2 lies under another name, number 3 is another rank's and large.
NAMES = ("w", "w", "head", "w")


def whole(logical_name: str, stored: str) -> Laid:
    (laid,) = lay(row(stored, logical(logical_name, "ffn hidden"), "ffn hidden"), SIZES, {})
    return laid


def planned(*dtypes: str) -> list[PlannedTensor]:
    return [PlannedTensor(n, name, dtype, (8, 4), 0, 64) for n, (name, dtype) in enumerate(zip(NAMES, dtypes, strict=False))]


def held(large: bool = False) -> Transfer:
    size = SMALL_BYTES if large else 8
    box = (0,), (size,), (1,)
    checks = (View(*box, (Place(1, 0), Place(2, 0))),)
    return Transfer("w", (size,), (0,), (View(*box, (Place(0, 0),)),), (View(*box, (Place(0, 0),)),), checks=checks)


def tensors_of(views: Any) -> list[int]:
    return [place.tensor for view in views for place in view.places]


@pytest.mark.parametrize(
    ("level", "large", "kept"), [("all", True, [1, 2]), ("small", False, [1, 2]), ("small", True, [2]), ("none", False, [2])]
)
def test_what_lies_under_another_name_is_compared_whatever_the_job_says(level: str, large: bool, kept: list[int]) -> None:
    ((_, chosen),), notes = choose_checks([("u", held(large))], planned("BF16", "BF16", "BF16"), level, tied=False)
    assert tensors_of(chosen.checks) == kept
    assert [note.kind for note in notes] == ([] if kept == [1, 2] else ["ignored"])
    assert bool(chosen.unchecked) == (kept != [1, 2])


def test_the_copies_of_adapters_are_chosen_as_those_of_weights() -> None:
    transfer = held()
    operand = Operand("w.lora_A", (8,), transfer.reads, transfer.checks)
    plain = Transfer("w", (8,), (0,), transfer.reads, transfer.writes, transform=Transform("lora", {}, (operand,)))
    ((_, chosen),), notes = choose_checks([("u", plain)], planned("BF16", "BF16", "BF16"), "none", tied=False)
    assert chosen.transform is not None
    assert tensors_of(chosen.transform.operands[0].checks) == [2]
    assert len(notes) == 1


def test_copies_whose_values_cannot_be_compared_are_named() -> None:
    choose_checks([("u", held())], planned("BF16", "F32", "F16"), "all", tied=False)
    with pytest.raises(SourceError, match="cannot be compared") as caught:
        choose_checks([("u", held())], planned("BF16", "I16", "BF16"), "all", tied=False)
    assert caught.value.facts == ("w: w is BF16, w I16",)


def test_a_copy_that_the_target_does_not_keep_is_compared_with_its_original() -> None:
    sources = gather(Layout.of([("", whole("w", "w"), "u"), ("", whole("mtp.w", "mtp.w"), "u")]))
    wanted = gather(Layout.of([("", whole("w", "w"), "u")]))
    model = cast(Model, SimpleNamespace(same_as={"mtp.w": "w", "mtp.v": "v"}))
    copies = left_out_copies(sources, wanted, model)
    ((_, transfer),) = make_transfers(sources, wanted, copies)
    assert tensors_of(transfer.checks) == [1]
    assert not left_out_copies(sources, sources, model)
