"""Runs against numpy: what is cut out of a stored tensor, by its blocks, is what slicing the stored tensor gives."""

from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.tensors.blocks import Block, Laid, LogicalTensor, Window, lay
from convsvc.tensors.declare import Row, logical, part, row
from convsvc.tensors.runs import cut_laid, cut_run, run_boxes

SIZES = {"group": 3, "query": 2, "slot": 4, "head_dim": 5, "hidden": 4, "glu": 2, "ffn": 6, "expert": 3, "vocab": 7}
QKV = logical("qkv", "group slot head_dim hidden")
FC1 = logical("fc1", "expert hidden glu ffn")
MLP = logical("mlp", "hidden glu ffn")
VOCAB = logical("vocab", "vocab hidden")
BIAS = logical("bias", "group slot head_dim")
PADDING = -1

ROWS: list[tuple[Row, dict[str, Window]]] = [
    (row("w", QKV, "(group slot head_dim) hidden"), {}),
    (row("w", QKV, "(slot group head_dim) hidden"), {}),
    (row("w", QKV.at(slot="0:query"), "(group slot head_dim) hidden"), {}),
    (row("w", QKV.at(slot="query + 1"), "(group head_dim) hidden"), {"group": Window(1, 3)}),
    (row("w", QKV, "hidden group (slot head_dim)"), {}),
    (row("w", BIAS, "(group slot head_dim)"), {}),
    (row("w", FC1, "expert hidden (glu ffn)"), {}),
    (row("w", FC1, "expert hidden (glu ffn)"), {"ffn": Window(2, 5), "expert": Window(1, 3)}),
    (row("w", FC1, "(expert hidden) (glu ffn)"), {}),
    (row("w", FC1, "hidden (expert glu ffn)"), {}),
    (row("w", FC1, "(expert ffn glu) hidden"), {}),
    (row("w", MLP, "(ffn glu) hidden"), {}),
    (row("w", MLP, "(glu ffn) hidden"), {"ffn": Window(3, 6)}),
    (row("w", MLP.at(glu="1"), "ffn hidden"), {}),
    (row("w", VOCAB, "vocab hidden"), {"vocab": Window(4, 10)}),
    (row("w", VOCAB, "vocab hidden"), {"vocab": Window(8, 10)}),
    (
        row(
            "w",
            (
                part(QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
                part(QKV.at(slot="query"), "(group head_dim) hidden"),
                part(QKV.at(slot="query + 1"), "(group head_dim) hidden"),
            ),
        ),
        {},
    ),
]
# Blocks which no row declares: every second element; two that interleave; an axis that lies outside of the stored tensor's own.
W = LogicalTensor("strided", ("a", "b", "c"), (3, 4, 9))
STRIDED = [
    Laid("w", (12, 10), (Block(W, (0, 0, 2), (3, 4, 6), 1, (40, 10, 2)),)),
    Laid("w", (8, 6), (Block(W, (0, 0, 0), (1, 4, 6), 0, (99, 12, 1)), Block(W, (1, 0, 0), (2, 4, 6), 6, (0, 12, 1)))),
    Laid("w", (2, 3, 1, 8), (Block(W, (0, 1, 0), (2, 3, 8), 0, (24, 8, 1)),), ((16, 8), (40, 8))),
]


def every_laid() -> list[Laid]:
    return [laid for made, windows in ROWS for laid in lay(made, SIZES, windows)] + STRIDED


def filled(laid: Laid, prices: dict[str, int]) -> np.ndarray:
    """The stored tensor that blocks describe, each element a logical tensor's own flat index; overlaps and wrong places fail."""
    flat = np.full(prod(laid.shape), -2)
    for offset, count in laid.padding:
        assert count
        assert (flat[offset : offset + count] == -2).all()
        flat[offset : offset + count] = PADDING
    for block in laid.blocks:
        if not block.volume:
            continue
        index = np.indices(block.shape).reshape(len(block.shape), -1)
        places = block.offset + np.array(block.strides) @ index
        assert places.min() >= 0
        assert (flat[places] == -2).all()
        values = np.ravel_multi_index(tuple(index + np.array(block.starts)[:, None]), block.tensor.sizes)
        flat[places] = values + prices.setdefault(block.tensor.name, 10_000 * len(prices))
    return flat.reshape(laid.shape)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_box_cut_anywhere_holds_what_slicing_gives(data: st.DataObject) -> None:
    laid = data.draw(st.sampled_from(every_laid()))
    prices: dict[str, int] = {}
    whole, cut = filled(laid, prices), laid
    # Twice, as what is cut out is cut again: an optimizer's shard of a tensor-parallel slice.
    for _ in range(2):
        box = [sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in cut.shape]
        cut = cut_laid(cut, tuple(low for low, _ in box), tuple(high for _, high in box))
        whole = whole[tuple(slice(low, high) for low, high in box)]
        assert cut.shape == whole.shape
        assert np.array_equal(filled(cut, prices), whole)
        assert all(block.volume for block in cut.blocks) or cut is laid


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flat_run_cut_anywhere_holds_what_slicing_gives(data: st.DataObject) -> None:
    laid = data.draw(st.sampled_from(every_laid()))
    prices: dict[str, int] = {}
    flat = filled(laid, prices).reshape(-1)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, flat.size), st.integers(0, flat.size))))
    assert np.array_equal(filled(cut_run(laid, start, stop), prices), flat[start:stop])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_a_run_is_a_few_boxes_in_order(sizes: list[int], data: st.DataObject) -> None:
    total = prod(sizes)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, total), st.integers(0, total))))
    values = np.arange(total).reshape(sizes)
    boxes = run_boxes(tuple(sizes), start, stop)
    held = [values[tuple(slice(low, high) for low, high in zip(*box, strict=True))].reshape(-1) for box in boxes]
    assert [value for piece in held for value in piece] == list(range(start, stop))
    assert len(boxes) <= max(1, 2 * len(sizes) - 1)


def test_cuts_along_whole_axes_stay_one_block() -> None:
    (laid,) = lay(row("w", QKV, "(group slot head_dim) hidden"), SIZES, {})
    rows = SIZES["slot"] * SIZES["head_dim"]
    for group in range(SIZES["group"]):
        (block,) = cut_laid(laid, (group * rows, 0), ((group + 1) * rows, 2)).blocks
        assert (block.starts, block.stops) == ((group, 0, 0, 0), (group + 1, 4, 5, 2))


def test_the_whole_box_is_the_tensor_itself() -> None:
    for laid in every_laid():
        assert cut_laid(laid, (0,) * len(laid.shape), laid.shape) is laid


def test_neighbouring_cuts_cover_everything_once() -> None:
    for laid in every_laid():
        total = prod(laid.shape)
        cuts = sorted({0, total, *range(0, total, 7)})
        volumes = [sum(block.volume for block in cut_run(laid, low, high).blocks) for low, high in pairwise(cuts)]
        assert sum(volumes) == sum(block.volume for block in laid.blocks)


@pytest.mark.parametrize(("starts", "stops"), [((0,), (3,)), ((0, 0), (99, 4)), ((-1, 0), (3, 4)), ((4, 0), (3, 4))])
def test_a_box_beyond_the_tensor_is_refused(starts: tuple[int, ...], stops: tuple[int, ...]) -> None:
    (laid,) = lay(row("w", MLP, "(ffn glu) hidden"), SIZES, {})
    with pytest.raises(ValueError, match=r"is not within \(12, 4\)"):
        cut_laid(laid, starts, stops)


def test_a_run_beyond_the_elements_is_refused() -> None:
    for start, stop in ((0, 13), (-1, 3), (5, 4)):
        with pytest.raises(ValueError, match="not within the 12"):
            run_boxes((3, 4), start, stop)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((6, 8), (0, 7, 1)),  # no multiple of a row
        ((6, 2), (0, 2, 1)),  # a row of the block is longer than a stored one
        ((64,), (0, 2, 3)),  # axes that are not nested
    ],
)
def test_a_block_that_does_not_lie_along_the_dimensions_is_refused(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    laid = Laid("w", shape, (Block(W, (0, 0, 0), (1, 4, 4), 0, strides),))
    with pytest.raises(ValueError, match="does not lie along the dimensions"):
        cut_laid(laid, (1,) + (0,) * (len(shape) - 1), shape)
