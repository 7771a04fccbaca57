"""Sizes from shapes: what a tensor's dimensions say of its axes."""

from __future__ import annotations

import pytest

from convsvc.blocks.dit import joined, linear, spelled
from convsvc.errors import SourceError
from convsvc.models.shapes import equations_of, solve
from convsvc.tensors.declare import Row

Q, K, V = (linear(each, "inner hidden", bias=False) for each in "qkv")
UP = linear("up", "ffn hidden", bias=False)


def sizes(*lines: tuple[Row, tuple[int, ...]], tp: int = 1) -> dict[str, int]:
    return solve([each for row, shape in lines for each in equations_of(row, row.stored, shape, tp)], "there")


def test_each_axis_is_as_long_as_its_dimension() -> None:
    assert sizes((spelled((Q, "q"))[0], (6, 4))) == {"inner": 6, "hidden": 4}


def test_parts_that_lie_one_after_the_other_share_a_dimension() -> None:
    assert sizes((joined("qkv", Q, K, V)[0], (18, 4))) == {"inner": 6, "hidden": 4}


def test_two_unknown_widths_follow_from_two_sums() -> None:
    first, second = joined("linear1", Q, K, V, UP)[0], joined("linear2", Q, UP)[0]
    assert sizes((first, (3 * 6 + 10, 4)), (second, (6 + 10, 4))) == {"inner": 6, "ffn": 10, "hidden": 4}


def test_a_ranks_part_counts_as_often_as_there_are_ranks() -> None:
    assert sizes((spelled((Q, "q", "inner"))[0], (6, 4)), tp=2) == {"inner": 12, "hidden": 4}


def test_shapes_that_contradict_each_other_are_named() -> None:
    with pytest.raises(SourceError, match="1 tensors do not fit together") as error:
        sizes((spelled((Q, "q"))[0], (6, 4)), (spelled((K, "k"))[0], (6, 5)))
    assert error.value.facts == ("k.weight, dimension 1: expected 4, found 5 (hidden is 4 in q.weight, dimension 1)",)


def test_what_the_shapes_leave_open_is_named() -> None:
    with pytest.raises(SourceError, match="do not say how large ffn, inner is"):
        sizes((joined("both", Q, UP)[0], (16, 4)))


def test_a_part_of_a_sum_is_no_fraction() -> None:
    with pytest.raises(SourceError, match="no multiple of what it holds"):
        sizes((joined("qkv", Q, K, V)[0], (17, 4)))
