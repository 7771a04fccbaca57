"""Steps against plain slicing: whatever the two layouts are, the bytes are those that numpy gives."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.execute.pipeline import Tiles
from convsvc.execute.steps.budgets import Budget
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.inputs import Read
from convsvc.execute.steps.matching import ViewIndex
from convsvc.execute.steps.records import Step, Tensors
from convsvc.execute.steps.regions import lay_out
from convsvc.execute.steps.strides import dense_strides
from convsvc.plan.records import Place, PlannedTensor, Transfer, View
from convsvc.tensors.boxes import Box

DTYPES = {"I16": np.int16, "I32": np.int32, "I64": np.int64}
HEADER = 24  # every made-up file begins with so many other bytes


class Memory:
    """Files that are byte strings, read as `io.Reader` reads files."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files
        self.bytes_read = 0

    def read(self, read: Read, target: memoryview) -> None:
        assert len(target) == read.total_bytes
        for number in range(read.times):
            start = read.file_offset + number * read.step_bytes
            data = self.files[read.file][start : start + read.size_bytes]
            target[number * read.size_bytes : (number + 1) * read.size_bytes] = data
            self.bytes_read += len(data)


class Layout:
    """Stored tensors, one a file, that hold views of `logical`; `arrays[i]` is the i-th tensor's flat content, views written in."""

    def __init__(self, logical: np.ndarray, dtype: str) -> None:
        self.logical, self.dtype = logical, dtype
        self.arrays: list[np.ndarray] = []
        self.views: list[View] = []

    def add_tensor(self, count: int) -> int:
        self.arrays.append(np.full(count, -1, DTYPES[self.dtype]))
        return len(self.arrays) - 1

    def add_view(self, starts: tuple[int, ...], stops: tuple[int, ...], strides: tuple[int, ...], places: list[tuple[int, int]]) -> None:
        self.views.append(View(starts, stops, strides, tuple(Place(*place) for place in places)))
        values = self.logical[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]
        for tensor, first in places:
            array = self.arrays[tensor]
            steps = tuple(stride * array.itemsize for stride in strides)
            np.ndarray(values.shape, array.dtype, array.data, first * array.itemsize, steps)[...] = values

    @property
    def tensors(self) -> list[PlannedTensor]:
        return [PlannedTensor(n, f"t{n}", self.dtype, (array.size,), HEADER, array.nbytes) for n, array in enumerate(self.arrays)]


def strides_in(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array of this shape that is stored with its axes in `order`."""
    packed = dense_strides(tuple(shape[axis] for axis in order))
    return tuple(packed[order.index(axis)] for axis in range(len(shape)))


@st.composite
def partitions(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Box]:
    """Disjoint boxes that cover the shape."""
    boxes = [Box((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 4))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        at = draw(st.integers(box.starts[axis], box.stops[axis]))
        halves = [box.along(axis, box.starts[axis], at), box.along(axis, at, box.stops[axis])]
        boxes += [half for half in halves if half.volume]
    return boxes


@st.composite
def layouts(draw: st.DrawFn, logical: np.ndarray, dtype: str) -> Layout:
    """Boxes of the logical tensor stored alone, side by side in one tensor, or interleaved in one, and some of them twice."""
    layout = Layout(logical, dtype)
    shape = logical.shape
    orders = st.permutations(range(len(shape))).map(tuple)
    whole = draw(orders)
    interleaved = layout.add_tensor(prod(shape))
    joined: list[Box] = []
    for box in draw(partitions(shape)):
        kind = draw(st.sampled_from(["alone", "interleaved", "joined", "replicated"]))
        strides = strides_in(shape, whole)
        if kind == "interleaved":
            first = sum(start * stride for start, stride in zip(box.starts, strides, strict=True))
            layout.add_view(box.starts, box.stops, strides, [(interleaved, first)])
        elif kind == "joined":
            joined.append(box)
        else:
            copies = 1 if kind == "alone" else 3
            gap = draw(st.integers(0, 3))
            places = [(layout.add_tensor(box.volume + gap + copy), copy) for copy in range(copies)]
            layout.add_view(box.starts, box.stops, strides_in(box.shape, draw(orders)), places)
    tensor = layout.add_tensor(sum(box.volume for box in joined))
    at = 0
    for box in joined:
        layout.add_view(box.starts, box.stops, strides_in(box.shape, draw(orders)), [(tensor, at)])
        at += box.volume
    return layout


def run(transfer: Transfer, source: Layout, target: Layout, budget_bytes: int, wide_bytes: int = 0, short: int = 64 << 10) -> list[Step]:
    """Runs the steps on files in memory and checks the target's bytes, and that none is written twice."""
    budget = Budget(budget_bytes, wide_bytes, short)
    memory = Memory([bytes(HEADER) + array.tobytes() for array in source.arrays])
    made = [np.full(array.size, -1, array.dtype) for array in target.arrays]
    touched = [np.zeros(array.nbytes, int) for array in target.arrays]
    steps = list(compile_steps(transfer, Tensors(source.tensors, target.tensors), budget))
    for write, data in Tiles(memory, budget).produce(steps):
        for place, part in [run for first in write.places for run in write.runs(first, data)]:
            stop = place.data_offset + len(part)
            made[place.tensor].view(np.uint8)[place.data_offset : stop] = np.frombuffer(part, np.uint8)
            touched[place.tensor][place.data_offset : stop] += 1
    for have, want, count in zip(made, target.arrays, touched, strict=True):
        np.testing.assert_array_equal(have, want)
        assert count.max(initial=0) <= 1
    return steps


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_layout_into_any_other_gives_the_bytes_that_slicing_gives(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    dtype = data.draw(st.sampled_from(sorted(DTYPES)))
    logical = np.arange(prod(shape), dtype=DTYPES[dtype]).reshape(shape)
    source, target = data.draw(layouts(logical, dtype)), data.draw(layouts(logical, dtype))
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    transfer = Transfer("w", shape, order, tuple(source.views), tuple(target.views))
    wide = data.draw(st.sampled_from([0, 128, 512, 4096]))
    run(transfer, source, target, data.draw(st.sampled_from([1, 64, 256, 1024, 1 << 20])), wide, 1 << 20)


def plain(shape: tuple[int, ...], source_order: tuple[int, ...], target_order: tuple[int, ...]) -> tuple[Transfer, Layout, Layout]:
    logical = np.arange(prod(shape), dtype=np.int16).reshape(shape)
    sides = []
    for order in (source_order, target_order):
        side = Layout(logical, "I16")
        side.add_view((0,) * len(shape), shape, strides_in(shape, order), [(side.add_tensor(prod(shape)), 0)])
        sides.append(side)
    source, target = sides
    return Transfer("w", shape, target_order, tuple(source.views), tuple(target.views)), source, target


def test_a_tensor_that_only_moves_is_written_from_the_buffer_it_was_read_into() -> None:
    transfer, source, target = plain((8, 16), (0, 1), (0, 1))
    steps = run(transfer, source, target, 128)
    assert len(steps) == 4
    assert all(not step.copies and step.output_bytes == 0 for step in steps)
    assert [len(step.reads) for step in steps] == [1] * 4


def test_every_step_keeps_to_its_budget_and_writes_one_range_of_a_target_in_its_own_order() -> None:
    transfer, source, target = plain((32, 48), (1, 0), (0, 1))
    steps = run(transfer, source, target, 1024)
    assert len(steps) > 4
    assert all(step.buffer_bytes <= 1024 and len(step.writes) == 1 for step in steps)


@pytest.mark.parametrize(("shape", "side"), [((3200, 600), "output"), ((600, 3200), "input")])
def test_where_the_orders_differ_one_side_moves_in_long_runs_and_the_other_in_as_long_ones_as_a_wide_buffer_allows(
    shape: tuple[int, int], side: str
) -> None:
    transfer, source, target = plain(shape, (0, 1), (1, 0))
    narrow = run(transfer, source, target, 1 << 20)
    wide = run(transfer, source, target, 1 << 20, 2 << 20)
    assert shortest_run(wide) >= 2 * shortest_run(narrow)
    assert {step.held.side for step in wide if step.held} == {side}
    assert max(step.input_bytes if side == "output" else step.output_bytes for step in wide) <= 1 << 20
    assert max(step.output_bytes if side == "output" else step.input_bytes for step in wide) <= 2 << 20
    assert sum(read.total_bytes for step in wide for read in step.reads) == 3200 * 600 * 2


def shortest_run(steps: list[Step]) -> int:
    """Bytes of the shortest run that is read or written."""
    return min(move.size_bytes for step in steps for move in (*step.reads, *step.writes))


def test_source_bytes_are_read_once_even_where_a_tile_is_strided_in_the_source() -> None:
    shape = (4, 4096)
    logical = np.arange(prod(shape), dtype=np.int16).reshape(shape)
    source, target = Layout(logical, "I16"), Layout(logical, "I16")
    source.add_view((0, 0), shape, (4096, 1), [(source.add_tensor(prod(shape)), 0)])
    for n in range(4):  # four ranks, each a quarter of the inner axis
        target.add_view((0, n * 1024), (4, (n + 1) * 1024), (1024, 1), [(target.add_tensor(4096), 0)])
    transfer = Transfer("w", shape, (1, 0), tuple(source.views), tuple(target.views))
    steps = run(transfer, source, target, 16384)
    assert len(steps) > 1
    assert sum(read.total_bytes for step in steps for read in step.reads) == logical.nbytes


def test_a_replicated_target_is_copied_once_and_written_to_all_its_places() -> None:
    logical = np.arange(64, dtype=np.int16).reshape(8, 8)
    source, target = Layout(logical, "I16"), Layout(logical, "I16")
    source.add_view((0, 0), (8, 8), (1, 8), [(source.add_tensor(64), 0)])
    target.add_view((0, 0), (8, 8), (8, 1), [(target.add_tensor(64 + n), n) for n in range(3)])
    (step,) = run(Transfer("w", (8, 8), (0, 1), tuple(source.views), tuple(target.views)), source, target, 1 << 20)
    assert step.output_bytes == 128
    assert [len(write.places) for write in step.writes] == [3]


def test_two_halves_interleaved_in_one_target_tensor_are_one_write() -> None:
    logical = np.arange(4 * 2 * 8, dtype=np.int16).reshape(4, 2, 8)
    source, target = Layout(logical, "I16"), Layout(logical, "I16")
    tensor = target.add_tensor(64)
    for glu in range(2):
        source.add_view((0, glu, 0), (4, glu + 1, 8), (8, 8, 1), [(source.add_tensor(32), 0)])
        target.add_view((0, glu, 0), (4, glu + 1, 8), (16, 8, 1), [(tensor, glu * 8)])
    transfer = Transfer("w", (4, 2, 8), (0, 1, 2), tuple(source.views), tuple(target.views))
    (step,) = run(transfer, source, target, 1 << 20)
    assert [(write.start, write.size_bytes) for write in step.writes] == [(0, 128)]


def test_a_scalar_moves() -> None:
    logical = np.array(7, np.int16)
    source, target = Layout(logical, "I16"), Layout(logical, "I16")
    source.add_view((), (), (), [(source.add_tensor(1), 0)])
    target.add_view((), (), (), [(target.add_tensor(1), 0)])
    run(Transfer("w", (), (), tuple(source.views), tuple(target.views)), source, target, 1 << 20)


def test_views_that_meet_a_box_are_found_without_asking_all() -> None:
    views = [View((n, 0), (n + 1, 4), (4, 1), (Place(n, 0),)) for n in range(1000)]
    asked: list[int] = []

    class Asked(View):
        def restricted(self, box: Box) -> View | None:
            asked.append(self.places[0].tensor)
            return View.restricted(self, box)

    index = ViewIndex([Asked(v.starts, v.stops, v.strides, v.places) for v in views])
    assert [view.places[0].tensor for view in index.meeting(Box((500, 1), (502, 3)))] == [500, 501]
    assert len(asked) < 5


@pytest.mark.parametrize(("gap", "runs"), [(1, 1), (400, 3)])
def test_runs_are_read_with_their_gaps_only_where_both_are_short(gap: int, runs: int) -> None:
    row = 16 + gap
    view = View((0, 0), (3, 16), (row, 1), (Place(0, 0),))
    assert [read.times for read in lay_out([view], 2, 1.05).ranges] == [runs]
    (written,) = lay_out([view], 2, 1.0).ranges
    assert (written.times, written.step) == (3, row)  # a write touches nothing between


def test_a_thousand_views_compile_in_well_under_a_second() -> None:
    logical = np.zeros((512, 2, 4), np.int16)
    source, target = Layout(logical, "I16"), Layout(logical, "I16")
    tensors = [target.add_tensor(64 * 8) for _ in range(8)]
    for expert, glu in product(range(512), range(2)):
        source.add_view((expert, glu, 0), (expert + 1, glu + 1, 4), (8, 4, 1), [(source.add_tensor(4), 0)])
    for rank, tensor in enumerate(tensors):
        target.add_view((rank * 64, 0, 0), (rank * 64 + 64, 2, 4), (8, 4, 1), [(tensor, 0)])
    transfer = Transfer("w", logical.shape, (0, 1, 2), tuple(source.views), tuple(target.views))
    asked = 0
    original = View.restricted

    def counted(self: View, box: Box) -> View | None:
        nonlocal asked
        asked += 1
        return original(self, box)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(View, "restricted", counted)
        list(compile_steps(transfer, Tensors(source.tensors, target.tensors), Budget(256)))
    assert asked < 20 * 1024
