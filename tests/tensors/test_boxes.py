"""A box is cut and halved without losing an element or holding one twice."""

from hypothesis import given
from hypothesis import strategies as st

from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import first_gap, first_overlap

BOX = Box((2, 0, 5), (6, 5, 8))


@given(st.permutations(range(3)), st.tuples(*[st.integers(1, 6)] * 3))
def test_the_pieces_of_a_box_are_disjoint_and_make_it_up(order: list[int], shape: tuple[int, int, int]) -> None:
    pieces = list(BOX.cut(tuple(order), shape))
    assert sum(piece.volume for piece in pieces) == BOX.volume
    assert first_overlap(pieces) is None
    assert first_gap(BOX, pieces) is None
    assert all(length <= most for piece in pieces for length, most in zip(piece.shape, shape, strict=True))


@given(st.permutations(range(3)))
def test_halves_are_cut_along_the_first_axis_that_can_be(order: list[int]) -> None:
    halves = BOX.halve(tuple(order))
    assert halves is not None
    one, other = halves
    assert one.stops[order[0]] == other.starts[order[0]]
    assert one.volume + other.volume == BOX.volume
    assert Box((3, 1), (4, 2)).halve((0, 1)) is None


def test_boxes_that_only_touch_do_not_meet() -> None:
    assert Box((0, 0), (2, 2)).intersect(Box((2, 0), (4, 2))) is None
    assert Box((), ()).intersect(Box((), ())) == Box((), ())
