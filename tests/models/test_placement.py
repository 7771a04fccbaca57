"""Where layers lie, by a table of counts, whatever framework has said it."""

from __future__ import annotations

import pytest

from convsvc.errors import LayoutError
from convsvc.models.placement import Table, check_noop, place


def where(table: Table, noop: tuple[int, ...] = ()) -> list[tuple[int, int | None, int]]:
    return [(slot.stage, slot.chunk, slot.number) for slot in place(table, noop).layers]


def test_chunks_follow_each_other_through_all_stages() -> None:
    assert where(Table(((1, 2), (0, 1)))) == [(0, 0, 0), (1, 0, 0), (1, 0, 1), (1, 1, 0)]


def test_one_chunk_has_no_number() -> None:
    placement = place(Table(((2, 1),)))
    assert (placement.chunks, placement.first, placement.last, placement.mtp) == (None, (0, None), (1, None), (1, None))


def test_a_table_that_returns_ends_where_it_began() -> None:
    placement = place(Table(((1, 1), (1, 1)), returns=True))
    assert [slot.stage for slot in placement.layers] == [0, 1, 1, 0]
    assert (placement.first, placement.last) == ((0, 0), (0, 1))


def test_nothing_lies_at_a_noop_position_and_it_is_counted() -> None:
    table = Table(((2, 2),))
    assert where(table, noop=(0, 3)) == [(0, None, 1), (1, None, 0)]
    assert place(table, noop=(0, 3)).positions == 4


def test_noop_positions_are_there_and_named_once() -> None:
    with pytest.raises(LayoutError, match="4; with them included there are layers 0 to 3"):
        check_noop((4,), 4)
    with pytest.raises(LayoutError, match="1 more than once"):
        check_noop((1, 1), 4)
