"""Blocks against numpy: a logical tensor filled with its own flat index, stored as a row says, must hold what slicing gives."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.plan.records import Place, View
from convsvc.tensors.blocks import Block, Window, lay
from convsvc.tensors.boxes import Box
from convsvc.tensors.declare import Row, logical, part, row
from convsvc.tensors.notation import NotationError

SIZES = {"group": 4, "query": 2, "slot": 4, "head_dim": 3, "hidden": 5, "glu": 2, "ffn": 6, "expert": 4, "vocab": 7}
QKV = logical("qkv", "group slot head_dim hidden")
FC1 = logical("fc1", "expert hidden glu ffn")
VOCAB = logical("vocab", "vocab hidden")


def filled(axes: tuple[str, ...]) -> np.ndarray:
    shape = [SIZES[axis] for axis in axes]
    return np.arange(prod(shape)).reshape(shape)


def read_block(block: Block, stored: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(stored).reshape(-1)
    return np.lib.stride_tricks.as_strided(flat[block.offset :], block.shape, [stride * flat.itemsize for stride in block.strides])


def store(made: Row, windows: dict[str, Window]) -> list[tuple[np.ndarray, tuple[Block, ...]]]:
    """What the row's stored tensors must hold, by numpy alone: select, slice, transpose, merge, concatenate."""
    (looped,) = made.looped or (None,)
    results = []
    indices = range(*_bounds(looped, windows)) if looped else [None]
    for index, laid in zip(indices, lay(made, SIZES, windows), strict=True):
        pieces = [_piece(piece, windows, looped, index) for piece in made.parts]
        stored = np.concatenate(pieces)
        assert laid.shape == stored.shape
        results.append((stored, laid.blocks))
    return results


def _bounds(axis: str, windows: dict[str, Window]) -> tuple[int, int]:
    return (windows[axis].start, windows[axis].stop) if axis in windows else (0, SIZES[axis])


def _piece(piece, windows, looped, index) -> np.ndarray:  # type: ignore[no-untyped-def]
    axes = piece.logical.axes
    where = dict(piece.selection.where)
    values = filled(axes)
    kept = [axis for group in piece.order for axis in group]
    for axis in axes:
        if axis == looped:
            lo, hi = index, index + 1
        elif axis in where:
            lo, _, hi = where[axis].partition(":")
            lo = eval(lo, {}, SIZES)
            hi = eval(hi, {}, SIZES) if hi else lo + 1
        else:
            lo, hi = _bounds(axis, windows)
        values = np.take(values, range(lo, hi), axis=axes.index(axis))
    values = values.squeeze(tuple(at for at, axis in enumerate(axes) if axis not in kept))
    left = [axis for axis in axes if axis in kept]
    values = values.transpose([left.index(axis) for axis in kept])
    return values.reshape([prod(values.shape[kept.index(axis)] for axis in group) for group in piece.order])


ROWS = [
    row("q", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    row("k", QKV.at(slot="query"), "(group head_dim) hidden"),
    row("qkv", QKV, "(group slot head_dim) hidden"),
    row("gate.{expert}", FC1.at(glu="0"), "ffn hidden"),
    row("weight1", FC1, "expert hidden (glu ffn)"),
    row("local.{expert}", FC1, "(glu ffn) hidden"),
    row(
        "packed",
        (
            part(QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
            part(QKV.at(slot="query"), "(group head_dim) hidden"),
            part(QKV.at(slot="query + 1"), "(group head_dim) hidden"),
        ),
    ),
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ROWS),
    st.fixed_dictionaries(
        {}, optional={axis: st.tuples(st.integers(0, SIZES[axis] - 1), st.integers(1, 6)) for axis in ("group", "ffn", "expert")}
    ),
)
def test_a_block_holds_what_slicing_the_logical_tensor_gives(made: Row, cuts: dict[str, tuple[int, int]]) -> None:
    windows = {
        axis: Window(start, min(SIZES[axis], start + width)) for axis, (start, width) in cuts.items() if axis in made.logicals[0].axes
    }
    for stored, blocks in store(made, windows):
        assert sum(block.volume for block in blocks) == stored.size
        for block in blocks:
            whole = filled(block.tensor.axes)
            want = whole[tuple(slice(a, b) for a, b in zip(block.starts, block.stops, strict=True))]
            assert np.array_equal(read_block(block, stored), want)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ROWS), st.data())
def test_restricting_a_view_moves_its_offset_and_nothing_else(made: Row, data: st.DataObject) -> None:
    stored, blocks = store(made, {})[0]
    block = blocks[0]
    starts = tuple(data.draw(st.integers(a, b - 1)) for a, b in zip(block.starts, block.stops, strict=True))
    stops = tuple(data.draw(st.integers(a + 1, b)) for a, b in zip(starts, block.stops, strict=True))
    view = View(block.starts, block.stops, block.strides, (Place(0, block.offset),)).restricted(Box(starts, stops))
    assert view is not None
    assert view.strides == block.strides
    smaller = Block(block.tensor, view.starts, view.stops, view.places[0].offset, view.strides)
    inside = tuple(slice(a - o, b - o) for a, b, o in zip(starts, stops, block.starts, strict=True))
    assert np.array_equal(read_block(smaller, stored), read_block(block, stored)[inside])


def test_local_names_count_from_zero() -> None:
    names = [laid.name for laid in lay(row("local.{expert}", FC1, "(glu ffn) hidden"), SIZES, {"expert": Window(2, 4)})]
    assert names == ["local.0", "local.1"]


def test_what_lies_beyond_an_axis_is_padding() -> None:
    made = row("embed", VOCAB, "vocab hidden")
    (last,) = lay(made, SIZES, {"vocab": Window(5, 10)})
    assert last.shape == (5, 5)
    assert (last.blocks[0].starts, last.blocks[0].stops) == ((5, 0), (7, 5))
    assert last.padding == ((10, 15),)
    (beyond,) = lay(made, SIZES, {"vocab": Window(10, 15)})
    assert beyond.blocks[0].volume == 0
    assert beyond.padding == ((0, 25),)


def test_parts_may_take_turns_within_each_index_of_the_outermost_axis() -> None:
    """As a group's queries, its key and the next group's: concatenated group by group."""
    query, key = logical("query", "group query head_dim hidden"), logical("key", "group head_dim hidden")
    parts = (part(query, "(group query head_dim) hidden"), part(key, "(group head_dim) hidden"))
    (laid,) = lay(row("qk", parts, within="group"), SIZES, {"group": Window(1, 4)})
    values = [filled(("group", *axes)) for axes in (("query", "head_dim", "hidden"), ("head_dim", "hidden"))]
    stored = np.concatenate([each[group].reshape(-1, SIZES["hidden"]) for group in (1, 2, 3) for each in values])
    assert laid.shape == stored.shape
    for block, whole in zip(laid.blocks, values, strict=True):
        assert np.array_equal(read_block(block, stored), whole[1:])


def test_parts_take_turns_within_their_outermost_axis_alone() -> None:
    with pytest.raises(NotationError, match="outermost"):
        row("w", QKV, "(slot group head_dim) hidden", within="group")
