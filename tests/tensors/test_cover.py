"""The cover proof against counting every element."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import FEW, covered_volumes, first_gap, first_overlap, missing_part, sort_boxes, volumes

SHAPE = (6, 5, 4)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    starts = tuple(draw(st.integers(0, size - 1)) for size in SHAPE)
    stops = tuple(draw(st.integers(start + 1, size)) for start, size in zip(starts, SHAPE, strict=True))
    return Box(starts, stops)


def marked(box: Box) -> np.ndarray:
    field = np.zeros(SHAPE, dtype=int)
    field[tuple(slice(a, b) for a, b in zip(*box, strict=True))] = 1
    return field


@settings(max_examples=300, deadline=None)
@given(boxes(), boxes())
def test_an_intersection_is_the_elements_both_hold(one: Box, other: Box) -> None:
    common = one.intersect(other)
    both = marked(one) * marked(other)
    assert (common is None) == (both.sum() == 0)
    if common:
        assert np.array_equal(marked(common), both)


@settings(max_examples=200, deadline=None)
@given(st.lists(boxes(), min_size=1, max_size=6))
def test_an_overlap_is_found_exactly_when_an_element_is_held_twice(many: list[Box]) -> None:
    counted = sum(marked(box) for box in many)
    different = list(dict.fromkeys(many))
    if len(different) == len(many):
        assert (first_overlap(many) is not None) == bool((counted > 1).any())


@settings(max_examples=300, deadline=None)
@given(boxes(), st.lists(boxes(), max_size=6))
def test_what_is_missing_is_inside_what_is_wanted_and_covered_by_nothing(wanted: Box, many: list[Box]) -> None:
    disjoint: list[Box] = []
    for box in many:
        if all(box.intersect(other) is None for other in disjoint):
            disjoint.append(box)
    have = sum((marked(box) for box in disjoint), np.zeros(SHAPE, dtype=int))
    gap = missing_part(wanted, sort_boxes(disjoint))
    complete = bool((have[marked(wanted) == 1] == 1).all())
    assert (gap is None) == complete
    if gap:
        assert gap.volume > 0
        assert (marked(gap) * have).sum() == 0
        assert np.array_equal(marked(gap) * marked(wanted), marked(gap))


@settings(max_examples=200, deadline=None)
@given(boxes(), st.lists(boxes(), max_size=6))
def test_a_gap_is_found_exactly_where_an_element_is_held_by_none_of_boxes_that_may_overlap(wanted: Box, many: list[Box]) -> None:
    held = sum((marked(box) for box in many), np.zeros(SHAPE, dtype=int))
    gap = first_gap(wanted, many)
    assert (gap is None) == bool((held[marked(wanted) == 1] > 0).all())
    if gap:
        assert not (marked(gap) * held).any()
        assert np.array_equal(marked(gap) * marked(wanted), marked(gap))


@settings(max_examples=200, deadline=None)
@given(st.lists(boxes(), max_size=6), st.lists(boxes(), max_size=6))
def test_covered_volumes_count_the_elements_shared_with_each_box(wanted: list[Box], have: list[Box]) -> None:
    counted = sum((marked(box) for box in have), np.zeros(SHAPE, dtype=int))
    assert covered_volumes(wanted, have) == [int((marked(box) * counted).sum()) for box in wanted]


@settings(max_examples=100, deadline=None)
@given(st.lists(boxes(), min_size=1, max_size=6), st.integers(1, 2 * FEW))
def test_many_volumes_at_once_are_those_of_each(some: list[Box], times: int) -> None:
    assert volumes(some * times) == [int(marked(box).sum()) for box in some] * times


def test_a_scalar_is_covered_by_a_scalar() -> None:
    scalar = Box((), ())
    assert covered_volumes([scalar], [scalar]) == [1]
    assert covered_volumes([scalar], []) == [0]
    assert first_overlap([scalar]) is None
    many = [Box((), ()) for _ in range(FEW + 1)]
    assert covered_volumes(many, [scalar]) == [1] * (FEW + 1)
    assert covered_volumes(many, []) == [0] * (FEW + 1)
    assert first_overlap(many) == (scalar, scalar)
