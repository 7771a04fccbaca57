"""The notation refuses what is not well formed, so that a typing mistake in a table is found when it is loaded."""

import pytest

from convsvc.tensors.declare import logical, part, row
from convsvc.tensors.notation import NotationError, evaluate, interval, parse_axes, parse_order

W = logical("w", "expert glu ffn hidden")


@pytest.mark.parametrize("text", ["hidden hidden", "hid-den", "2ffn"])
def test_axes_are_different_identifiers(text: str) -> None:
    with pytest.raises(NotationError):
        parse_axes(text)


@pytest.mark.parametrize("text", ["(group", "group)", "(a (b c))", "a a", "a+b"])
def test_an_order_has_balanced_parentheses_and_each_axis_once(text: str) -> None:
    with pytest.raises(NotationError):
        parse_order(text)


@pytest.mark.parametrize("text", ["query / 2", "query()", "__import__('os')", "unknown", "1 if 1 else 2", "query +"])
def test_an_expression_is_only_sums_differences_and_products(text: str) -> None:
    with pytest.raises(NotationError):
        evaluate(text, {"query": 4})


def test_an_interval_is_half_open_and_an_index_is_one_wide() -> None:
    assert interval("1:query - 1", {"query": 4}) == (1, 3)
    assert interval("query + 1", {"query": 4}) == (5, 6)


def test_a_row_must_place_every_axis() -> None:
    with pytest.raises(NotationError, match="expert"):
        row("w", W.at(glu="0"), "ffn hidden")


def test_a_row_may_not_place_an_axis_twice() -> None:
    with pytest.raises(NotationError):
        row("w.{expert}", W, "expert (glu ffn) hidden")
    with pytest.raises(NotationError):
        row("w.{expert}", W.at(glu="0"), "(glu ffn) hidden")


def test_a_selection_or_an_order_names_only_axes_there_are() -> None:
    with pytest.raises(NotationError, match="slot"):
        W.at(slot="0")
    with pytest.raises(NotationError, match="vocab"):
        part(W, "vocab hidden")
