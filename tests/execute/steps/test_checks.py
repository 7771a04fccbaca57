"""Copies are compared element by element, in whatever order, type and tiles: one that has changed is found and named."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.errors import SourceError
from convsvc.execute.check.copies import Checker, Difference, source_differs
from convsvc.execute.pipeline import Tiles
from convsvc.execute.steps import checks
from convsvc.execute.steps.budgets import Budget
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.records import Tensors
from convsvc.execute.task_files import Side
from convsvc.plan.records import Place, PlannedFile, PlannedTensor, Transfer, View
from convsvc.plan.transfers import split_copies
from tests.execute.steps.test_steps import DTYPES, HEADER, Layout, Memory, layouts, plain, strides_in


class Found(Exception):
    """A difference, as the checker gives it."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference)
        self.difference = difference


def run(transfer: Transfer, tensors: list[PlannedTensor], contents: list[bytes], target: Layout, budget: Budget) -> None:
    """Does the transfer's steps on files in memory, the first tensor in the first file and so on."""
    memory = Memory([bytes(HEADER) + content for content in contents])
    files = tuple(PlannedFile(f"file{n}", HEADER + len(content), "safetensors") for n, content in enumerate(contents))
    side = Side(files, tuple(tensors), tuple(range(len(tensors))))
    checker = Checker(memory, side, Found, lambda: None)  # type: ignore[arg-type]
    steps = list(compile_steps(transfer, Tensors(tensors, target.tensors), budget))
    for _ in Tiles(memory, budget, checker).produce(steps):
        pass


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_copy_is_compared_and_any_changed_element_of_it_is_found(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    dtype = data.draw(st.sampled_from(sorted(DTYPES)))
    logical = np.arange(prod(shape), dtype=DTYPES[dtype]).reshape(shape)
    source, copy, target = (data.draw(layouts(logical, dtype)) for _ in range(3))
    reads, copies = split_copies(source.views)
    shift = len(source.arrays)
    copies += [v._replace(places=tuple(Place(tensor + shift, offset) for tensor, offset in v.places)) for v in copy.views]
    arrays = [*source.arrays, *copy.arrays]
    tensors = [PlannedTensor(n, f"t{n}", dtype, (array.size,), HEADER, array.nbytes) for n, array in enumerate(arrays)]
    transfer = Transfer("w", shape, tuple(data.draw(st.permutations(range(len(shape))))), tuple(reads), tuple(target.views))
    transfer = Transfer(transfer.name, shape, transfer.order, transfer.reads, transfer.writes, checks=tuple(copies))
    budget = Budget(data.draw(st.sampled_from([1, 64, 1024, 1 << 20])), data.draw(st.sampled_from([0, 512, 4096])), 1 << 20)
    run(transfer, tensors, [array.tobytes() for array in arrays], target, budget)

    view = data.draw(st.sampled_from(copies))
    place = data.draw(st.sampled_from(view.places))
    index = tuple(data.draw(st.integers(a, b - 1)) for a, b in zip(view.starts, view.stops, strict=True))
    at = place.offset + sum((i - a) * stride for i, a, stride in zip(index, view.starts, view.strides, strict=True))
    arrays[place.tensor][at] += 1
    with pytest.raises(Found) as caught:
        run(transfer, tensors, [array.tobytes() for array in arrays], target, budget)
    found = caught.value.difference
    assert (found.index, found.other.tensor, found.other.path) == (list(index), f"t{place.tensor}", f"file{place.tensor}")
    assert found.other.index == [at]
    assert int(found.other.value.split()[0], 16) == int(logical[index]) + 1
    assert int(found.read.value.split()[0], 16) == int(logical[index])


def test_a_copy_larger_than_its_buffer_is_compared_in_pieces_and_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_BYTES", 256)
    transfer, _, target = plain((64, 32), (0, 1), (1, 0))
    transfer = Transfer("w", (64, 32), (1, 0), transfer.reads, transfer.writes, checks=(transfer.reads[0]._replace(places=(Place(1, 0),)),))
    tensors = [PlannedTensor(n, f"t{n}", "I16", (64, 32), HEADER, 4096) for n in range(2)]
    steps = list(compile_steps(transfer, Tensors(tensors, target.tensors), Budget(1024, 8192, 1 << 20)))
    made = [check for step in steps for check in step.checks]
    assert max(check.reading.size_bytes for check in made) <= 256 * 3 // 2
    assert sum(read.total_bytes for check in made for read in check.reading.reads) == 4096
    assert sum(prod(pair.shape) for check in made for pair in check.pairs) == 64 * 32


FLOATS = {"F32": np.float32, "F64": np.float64, "F16": np.float16}


def compare(read: np.ndarray, copy: np.ndarray, types: tuple[str, str]) -> None:
    whole = View((0,), (read.size,), (1,), (Place(0, 0),))
    tensors = [PlannedTensor(n, f"t{n}", types[n], (each.size,), HEADER, each.nbytes) for n, each in enumerate((read, copy))]
    target = Layout(np.zeros(read.size, np.int32), "I32")
    target.add_view((0,), (read.size,), strides_in((read.size,), (0,)), [(target.add_tensor(read.size), 0)])
    target.dtype = types[0]
    transfer = Transfer("w", (read.size,), (0,), (whole,), tuple(target.views), checks=(whole._replace(places=(Place(1, 0),)),))
    run(transfer, tensors, [read.tobytes(), copy.tobytes()], target, Budget(1 << 16))


def test_copies_in_other_float_types_are_compared_by_value() -> None:
    values = np.array([1.0, -0.5, np.inf, 3.0], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)  # BF16
    compare(upper, values, ("BF16", "F32"))
    compare(values, upper, ("F32", "BF16"))
    compare(upper, values.astype(np.float16), ("BF16", "F16"))
    with pytest.raises(Found) as caught:
        compare(upper, values + np.float32(2**-20), ("BF16", "F32"))
    assert caught.value.difference.index == [0]
    assert caught.value.difference.other.value.startswith("1.00000095 (F32 0x3f800008")


def test_a_nan_is_equal_to_the_same_nan_and_to_no_other() -> None:
    one = np.array([0x7FC00001, 0], np.uint32)
    compare(one, one.copy(), ("F32", "F32"))
    with pytest.raises(Found):
        compare(one, np.array([0x7FC00002, 0], np.uint32), ("F32", "F32"))
    with pytest.raises(Found):  # nor is a zero the other zero
        compare(one, np.array([0x7FC00001, 0x80000000], np.uint32), ("F32", "F32"))


def test_the_error_names_both_files_and_values_and_what_to_do() -> None:
    with pytest.raises(Found) as caught:
        compare(np.array([1.0, 2.0], np.float32), np.array([1.0, 2.5], np.float32), ("F32", "F32"))
    error = source_differs(caught.value.difference)
    assert isinstance(error, SourceError)
    text = str(error)
    for part in ("holds w more than once", "t0 of file0 has 2 (F32 0x40000000) at [1]", "t1 of file1 has 2.5", "at [1] of w", "do: "):
        assert part in text
