"""The proof: what is wanted and not held, or held twice, is an error that names the tensor and the box."""

from __future__ import annotations

import pytest

from convsvc.dialects.layout import Layout
from convsvc.errors import PlanError
from convsvc.plan.transfers import check_tiled, check_unique, cutting_order, gather, make_transfers, stand_in
from convsvc.tensors.blocks import Laid, Window, lay
from convsvc.tensors.declare import Row, logical, row

SIZES = {"ffn": 8, "hidden": 4, "expert": 4, "vocab": 7}
W = logical("w", "ffn hidden")
E = logical("e", "expert ffn hidden")


def laid(made: Row, **windows: tuple[int, int]) -> list[Laid]:
    return list(lay(made, SIZES, {axis: Window(*window) for axis, window in windows.items()}))


def gathered(*tensors: Laid):  # type: ignore[no-untyped-def]
    return gather(Layout.of(("", each, "layer.") for each in tensors))


WHOLE = row("w", W, "ffn hidden")
FLIPPED = row("w", W, "hidden ffn")


def test_shards_cover_a_whole_tensor_in_any_order() -> None:
    source = gathered(*laid(WHOLE, ffn=(0, 4)), *laid(FLIPPED, ffn=(4, 8)))
    ((unit, transfer),) = make_transfers(source, gathered(*laid(WHOLE)))
    assert unit == "layer."
    assert [view.volume for view in transfer.reads] == [16, 16]
    assert sum(view.volume for view in transfer.writes) == 32


def test_a_missing_shard_is_named_by_its_box() -> None:
    with pytest.raises(PlanError) as caught:
        make_transfers(gathered(*laid(WHOLE, ffn=(0, 6))), gathered(*laid(WHOLE)))
    assert "missing [ffn 6:8, hidden 0:4]" in str(caught.value)


def test_a_tensor_nobody_has_is_named() -> None:
    with pytest.raises(PlanError, match=r"w \[ffn 8, hidden 4\]: the source does not have it"):
        make_transfers({}, gathered(*laid(WHOLE)))


def test_shards_that_overlap_without_being_replicas_are_refused() -> None:
    source = gathered(*laid(WHOLE, ffn=(0, 6)), *laid(WHOLE, ffn=(4, 8)))
    with pytest.raises(PlanError, match="which overlap"):
        make_transfers(source, gathered(*laid(WHOLE)))


def test_replicas_are_read_once_and_written_everywhere() -> None:
    source = gathered(*laid(WHOLE), *laid(WHOLE))
    target = gathered(*laid(FLIPPED, ffn=(0, 4)), *laid(FLIPPED, ffn=(4, 8)), *laid(FLIPPED, ffn=(0, 4)))
    ((_, transfer),) = make_transfers(source, target)
    assert [len(view.places) for view in (*transfer.reads, *transfer.checks)] == [1, 1]
    assert sorted(len(view.places) for view in transfer.writes) == [1, 2]


def test_a_replica_in_another_order_is_compared_and_not_read() -> None:
    ((_, transfer),) = make_transfers(gathered(*laid(WHOLE), *laid(FLIPPED)), gathered(*laid(WHOLE)))
    assert (len(transfer.reads), len(transfer.checks)) == (1, 1)


def test_a_declared_copy_stands_in_for_what_is_missing() -> None:
    copy = row("copy", logical("copy", "ffn hidden"), "ffn hidden")
    sources, targets = gathered(*laid(WHOLE)), gathered(*laid(copy))
    ((_, transfer),) = make_transfers(stand_in(sources, targets, {"copy": "w"}), targets)
    assert transfer.name == "copy"
    assert transfer.reads[0].places[0].tensor == 0


def test_the_target_is_cut_along_its_outermost_axis_and_what_it_fixes() -> None:
    each = gathered(*laid(row("e.{expert}", E, "hidden ffn")))["e"]
    assert cutting_order(each.views(), each.tensor.sizes) == (0, 2, 1)


def test_padding_is_filled_and_counts_for_the_tiling() -> None:
    vocab = row("v", logical("v", "vocab hidden"), "vocab hidden")
    shards = laid(vocab, vocab=(0, 4)) + laid(vocab, vocab=(4, 8)) + laid(vocab, vocab=(8, 12))
    for shard in shards:
        check_tiled([shard])
    ((_, transfer),) = make_transfers(gathered(*laid(vocab)), gathered(*shards))
    assert [(fill.tensor, fill.offset, fill.count) for fill in transfer.fills] == [(1, 12, 4), (2, 0, 16)]


def test_a_declaration_that_does_not_fill_its_tensor_is_a_mistake() -> None:
    (whole,) = laid(WHOLE)
    with pytest.raises(PlanError, match="accounts for 32 of its 40 elements"):
        check_tiled([Laid("w", (10, 4), whole.blocks)])


def test_two_tensors_of_one_name_in_one_file_are_found_when_planning() -> None:
    check_unique("target", [("a", "w"), ("b", "w"), ("a", "v")])
    with pytest.raises(PlanError, match="1 stored tensors of the target have the same name") as caught:
        check_unique("target", [("a", "w"), ("b", "w"), ("a", "w")])
    assert caught.value.facts == ("a: w",)
