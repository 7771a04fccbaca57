"""Slices of parameters against MindSpore's own re-slicing, and against what must hold of any cut."""

import gzip
import json
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.dialects.mindformers.mesh import Division, cut_of, cuts_of, dealt, declared_layout
from convsvc.errors import LayoutError
from convsvc.formats.strategy.binary import parse_binary, to_binary
from convsvc.formats.strategy.reader import read_strategy
from convsvc.formats.strategy.records import ParameterLayout, stage_strategy

CORPUS = Path(__file__).parents[2] / "golden/mindformers"
SAID: dict[str, Any] = json.loads(gzip.decompress((CORPUS / "mindspore_says.json.gz").read_bytes()))
FILES = sorted(SAID["slices"])


def cuts_in(file: str) -> dict[str, Division]:
    strategy = read_strategy(CORPUS / "strategies" / file)
    return cuts_of(strategy.layouts, {name: len(shape) for name, (shape, _) in SAID["slices"][file].items()})


def boxes_of(cut: Division, shape: list[int]) -> list[list[list[int]]]:
    return [[list(corner) for corner in cut.box(rank, tuple(shape))] for rank in range(len(cut.pieces))]


def test_the_corpus_is_there() -> None:
    assert len(FILES) == 11
    assert sum(len(boxes) for named in SAID["slices"].values() for _, boxes in named.values()) == 1504
    assert len(SAID["drawn"]) == 150


@pytest.mark.parametrize("file", FILES)
def test_every_slice_of_a_real_strategy_is_where_mindspore_puts_it_and_all_make_the_whole(file: str) -> None:
    cuts = cuts_in(file)
    for name, (shape, boxes) in SAID["slices"][file].items():
        assert boxes_of(cuts[name], shape) == boxes, name
        held = np.zeros(shape, dtype=int)
        for group in cuts[name].groups():
            starts, stops = cuts[name].box(group[0], tuple(shape))
            held[tuple(map(slice, starts, stops))] += 1
        assert (held == 1).all(), name
        piece = tuple(stop - start for start, stop in zip(*boxes[0], strict=True))
        assert cuts[name].whole(piece) == tuple(shape)


@pytest.mark.parametrize("file", FILES)
def test_replicas_and_what_each_rank_keeps_of_them_are_as_mindspore_has_them(file: str) -> None:
    cuts, said = cuts_in(file), SAID["redundancy"][file]
    for name, cut in cuts.items():
        assert sorted(map(list, cut.groups())) == sorted(said["groups"][name]), name
    kept = {str(rank): sorted(names) for rank, names in dealt(cuts).items()}
    assert kept == {rank: said["kept"].get(rank, []) for rank in kept}


@pytest.mark.parametrize("drawn", SAID["drawn"], ids=lambda drawn: f"{drawn['mesh']}{drawn['map']}{drawn['size']}".replace(" ", ""))
def test_layouts_drawn_at_random_are_cut_as_mindspore_cuts_them(drawn: dict[str, Any]) -> None:
    layout = ParameterLayout("w", tuple(drawn["mesh"]), tuple(map(tuple, drawn["map"])), drawn["step"], drawn["size"])
    used = prod([layout.dev_matrix[len(layout.dev_matrix) - 1 - axis] for axes in layout.tensor_map for axis in axes])
    # MindSpore cuts into more shards than there are replicas, and then some are on no rank; that is no checkpoint.
    if drawn["boxes"] is None or drawn["size"] > prod(layout.dev_matrix) // used:
        with pytest.raises(LayoutError, match="cannot have"):
            cut_of(layout, len(drawn["shape"]))
    else:
        assert boxes_of(cut_of(layout, len(drawn["shape"])), drawn["shape"]) == drawn["boxes"]


AXES = st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda mesh: prod(mesh) <= 64)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_declared_cut_is_written_and_its_slices_make_the_whole(data: st.DataObject) -> None:
    mesh = {f"axis{at}": size for at, size in enumerate(data.draw(AXES))}
    dimensions = data.draw(st.integers(1, 3))
    cut: list[list[str]] = [[] for _ in range(dimensions)]
    for axis in data.draw(st.permutations(list(mesh))):
        at = data.draw(st.integers(-1, dimensions - 1))
        if at >= 0:
            cut[at].append(axis)
    shape = tuple(prod(mesh[axis] for axis in axes) * data.draw(st.integers(1, 6)) for axes in cut)
    layout = declared_layout("w", mesh, tuple(map(tuple, cut)), shape, data.draw(st.sampled_from([0, -1])))
    (read,) = parse_binary(to_binary(stage_strategy(0, [layout])), "here").layouts
    assert read == layout
    pieces = cut_of(read, dimensions)
    held = np.zeros(shape, dtype=int)
    for rank, at in enumerate(product(*map(range, mesh.values()))):
        starts, stops = pieces.box(rank, shape)
        held[tuple(map(slice, starts, stops))] += 1
        # The first axis of a dimension is the coarsest: numpy says which part of the dimension that is.
        for axes, size, start, stop in zip(cut, shape, starts, stops, strict=True):
            place = dict(zip(mesh, at, strict=True))
            part = np.arange(size).reshape(*[mesh[axis] for axis in axes], -1)[tuple(place[axis] for axis in axes)]
            assert part[0] <= start
            assert stop - 1 <= part[-1]
    assert len(set(held.reshape(-1))) == 1
    assert held.max() == len(pieces.groups()[0])


def test_optimizer_shards_are_declared_where_there_are_replicas_and_dimension_0_comes_out_even() -> None:
    mesh = {"dp": 4, "tp": 2}
    sharded = declared_layout("w", mesh, (("tp",), ()), (16, 3), -1)
    assert (sharded.opt_weight_shard_step, sharded.opt_weight_shard_size, cut_of(sharded).counts) == (2, -1, (8, 1))
    norm = declared_layout("w", mesh, ((),), (16,), 2)
    assert (norm.opt_weight_shard_step, norm.opt_weight_shard_size, cut_of(norm).counts) == (1, 2, (2,))
    for odd in (declared_layout("w", mesh, (("tp",),), (6,), -1), declared_layout("w", mesh, (("dp", "tp"),), (16,), -1)):
        assert (odd.opt_weight_shard_step, odd.opt_weight_shard_size) == (0, 0)


def test_one_dimension_cut_by_two_axes_is_known_by_the_tensor_where_the_file_cannot_say() -> None:
    # As MindSpore wrote it before it put an empty list behind: one list, which looks like two dimensions.
    layout = ParameterLayout("bias", (2, 2), ((1,), (0,)))
    assert [cut_of(layout, 1).box(rank, (8,)) for rank in range(4)] == [((0,), (2,)), ((2,), (4,)), ((4,), (6,)), ((6,), (8,))]


@pytest.mark.parametrize(
    "layout",
    [
        ParameterLayout("w", (2, 2), ((0,), ()), 1, -1),  # the step is not that of the axis which is left
        ParameterLayout("w", (2, 2), ((0,), ()), 2, 4),  # more shards than replicas
        ParameterLayout("w", (2, 3, 2), ((0,), ()), 2, 4),  # neither a whole axis nor a part of one
        ParameterLayout("w", (2, 2), (), 1, -1),  # a scalar cannot be cut
    ],
)
def test_optimizer_shards_that_do_not_fit_the_replicas_are_refused_by_the_parameters_name(layout: ParameterLayout) -> None:
    with pytest.raises(LayoutError, match="parameter w") as caught:
        cuts_of([layout], {})
    assert "optimizer shards" in caught.value.message


def test_a_shape_that_cannot_be_cut_so_is_refused() -> None:
    cut = cut_of(ParameterLayout("w", (2, 2), ((0,), ())))
    with pytest.raises(LayoutError, match=r"\(3, 4\) cannot be cut into \(2, 1\)"):
        cut.box(0, (3, 4))
    with pytest.raises(LayoutError, match="cannot be a piece"):
        cut.whole((3,))
    with pytest.raises(LayoutError, match="the mesh has dp, tp"):
        declared_layout("w", {"dp": 2, "tp": 2}, (("ep",), ()), (4, 4))
    with pytest.raises(LayoutError, match="cannot be cut into"):
        declared_layout("w", {"dp": 2, "tp": 2}, (("tp",), ()), (5, 4))


def test_parameters_that_lie_alike_share_their_cut() -> None:
    cuts = cuts_in("tp2dp2_opt/ckpt_strategy_rank_0.ckpt")
    assert len({id(cut) for cut in cuts.values()}) == 3
