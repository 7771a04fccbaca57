"""What was saved once of what several ranks held may be missing elsewhere: the elements decide, and an error says which and where."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.dialects.layout import Entry, Layout
from convsvc.errors import PlanError
from convsvc.formats.base import StoredTensor
from convsvc.models.facts import Facts
from convsvc.plan.match import Inventory, match_source
from convsvc.plan.transfers import gather, make_transfers
from convsvc.tensors.blocks import Laid, Window, lay
from convsvc.tensors.declare import Row, logical, row

SIZES = {"vocab": 8, "hidden": 4}
W = row("w", logical("w", "vocab hidden"), "vocab hidden")
RANKS = ("rank_0", "rank_1", "rank_2", "rank_3")


def part(start: int, stop: int, made: Row = W) -> Laid:
    (laid,) = lay(made, SIZES, {"vocab": Window(start, stop)})
    return laid


# Two halves, each held by two ranks.
HALVES = (part(0, 4), part(4, 8))
SPARE = Layout(HALVES, tuple(Entry(file, at // 2, "layer.", spare=True) for at, file in enumerate(RANKS)))


def matched(layout: Layout, there: Iterable[str]) -> Inventory:
    kinds = {entry.file: layout.kinds[entry.kind] for entry in layout.entries}
    found = {(file, kinds[file].name): Found(0, StoredTensor(kinds[file].name, "BF16", kinds[file].shape, 0)) for file in there}
    inventory, _ = match_source(layout, Checkpoint("/ckpt", (), found, Facts({}, "the job")), lambda key: None, "llama")
    return inventory


@pytest.mark.parametrize("there", [("rank_0", "rank_2"), ("rank_1", "rank_2"), RANKS])
def test_a_spare_entry_may_be_missing_where_another_rank_has_its_elements(there: tuple[str, ...]) -> None:
    inventory = matched(SPARE, there)
    assert [each.key[0] for each in inventory.entries] == list(there)
    ((_, transfer),) = make_transfers(gather(inventory), gather(Layout.of([("", part(0, 8), "layer.")])))
    assert sum(view.volume for view in transfer.reads) == 32


def test_an_entry_that_is_not_spare_may_not_be_missing() -> None:
    needed = Layout(HALVES, tuple(entry._replace(spare=False) for entry in SPARE.entries))
    with pytest.raises(PlanError, match="2 missing") as caught:
        matched(needed, ("rank_0", "rank_2"))
    assert caught.value.facts == ("missing   rank_1: w [4, 4]", "missing   rank_3: w [4, 4]")


def test_elements_that_no_rank_holds_are_named_with_the_files_that_could_have_held_them() -> None:
    with pytest.raises(PlanError, match="1 missing") as caught:
        matched(SPARE, ("rank_0", "rank_1"))
    assert caught.value.facts == ("missing   w [4, 4]: no file holds w [vocab 4:8, hidden 0:4]; it should be in one of rank_2, rank_3",)
    assert caught.value.details["missing"] == ["w"]


def test_only_the_elements_count_not_how_the_others_are_cut() -> None:
    """The middle is nobody's where it is missing, and needs nobody where two others overlap it."""
    layout = Layout((*HALVES, part(2, 6)), (*SPARE.entries, Entry("rank_4", 2, "layer.", spare=True)))
    assert len(matched(layout, ("rank_0", "rank_2")).entries) == 2
    with pytest.raises(PlanError) as caught:
        matched(layout, ("rank_0", "rank_4"))
    assert "no file holds w [vocab 6:8, hidden 0:4]" in caught.value.facts[0]


def test_what_a_checkpoint_may_do_without_is_not_missed_where_a_spare_of_it_is_there() -> None:
    optional = Layout(tuple(laid._replace(optional=True) for laid in HALVES), SPARE.entries)
    assert len(matched(optional, ("rank_0", "rank_3")).entries) == 2
    assert matched(optional, ()).entries == ()


def test_many_files_that_could_have_held_it_are_counted() -> None:
    many = Layout(HALVES[:1], tuple(Entry(f"rank_{at}", 0, "layer.", spare=True) for at in range(64)))
    with pytest.raises(PlanError) as caught:
        matched(many, ())
    assert caught.value.facts[0].endswith("it should be in one of rank_0, rank_1, rank_2 and 61 more")
