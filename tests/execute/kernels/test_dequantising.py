"""Block-quantised numbers against torch: float8 to float32, times the block's scale, rounded to bf16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.execute.check.overflows import Overflows
from convsvc.execute.kernels.dequantising import NUMBERS, decode_scales
from convsvc.execute.pipeline import Tiles
from convsvc.execute.steps.compiling import Budget, compile_steps
from convsvc.execute.steps.records import Tensors
from convsvc.plan.records import BlockScale, Place, PlannedTensor, Transfer, View
from convsvc.tensors.dtypes import size_of
from tests.execute.steps.test_steps import HEADER, Memory, strides_in

TORCH = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class Quantised:
    """A float8 matrix and its scales, a factor for each block of rows x columns."""

    codes: torch.Tensor
    scales: torch.Tensor
    dtype: str
    block: tuple[int, int]

    def reference(self, dtype: str = "BF16") -> torch.Tensor:
        rows, columns = self.codes.shape
        factors = self.scales.float().repeat_interleave(self.block[0], 0).repeat_interleave(self.block[1], 1)[:rows, :columns]
        return (self.codes.view(TORCH[self.dtype]).float() * factors).to(TORCH[dtype])


@st.composite
def matrices(draw: st.DrawFn) -> Quantised:
    rows, columns = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    block = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    codes = torch.from_numpy(rng.integers(0, 256, (rows, columns), np.uint8))
    scales = torch.from_numpy(rng.lognormal(-6, 3, (-(-rows // block[0]), -(-columns // block[1]))).astype(np.float32))
    special = draw(st.sampled_from([None, float("nan"), float("inf"), 0.0, -1.5, 1e-40, 3e38]))
    if special is not None:
        scales[-1, 0] = special
    return Quantised(codes, scales.to(TORCH[draw(st.sampled_from(["F32", "BF16"]))]), draw(st.sampled_from(sorted(NUMBERS))), block)


def dequantised(
    matrix: Quantised,
    box: tuple[tuple[int, int], tuple[int, int]],
    transposed: bool,
    dtype: str,
    budget: int,
    product: str = "BF16",
    overflows: Overflows | None = None,
) -> np.ndarray:
    """The matrix's box through real steps, from files in memory; the target's bytes. `overflows` is told what became infinite."""
    rows, columns = matrix.codes.shape
    scale_dtype = "F32" if matrix.scales.dtype == torch.float32 else "BF16"
    files = [bytes(HEADER) + each.contiguous().view(torch.uint8).numpy().tobytes() for each in (matrix.codes, matrix.scales)]
    source = [
        PlannedTensor(0, "w", matrix.dtype, (rows, columns), HEADER, matrix.codes.numel(), BlockScale(1, *matrix.block, product)),
        PlannedTensor(1, "s", scale_dtype, tuple(matrix.scales.shape), HEADER, matrix.scales.nbytes),
    ]
    shape = tuple(stop - start for start, stop in box)
    starts, stops = tuple(start for start, _ in box), tuple(stop for _, stop in box)
    order = (1, 0) if transposed else (0, 1)
    write = View(starts, stops, strides_in(shape, order), (Place(0, 0),))
    read = View((0, 0), (rows, columns), (columns, 1), (Place(0, 0),))
    made = np.zeros(shape[0] * shape[1] * size_of(dtype), np.uint8)
    target = [PlannedTensor(0, "w", dtype, shape, 0, made.size)]
    transfer = Transfer("w", (rows, columns), order, (read,), (write,))
    steps = compile_steps(transfer, Tensors(source, target), Budget(budget))
    tiles = Tiles(Memory(files), Budget(budget))
    for write, data in tiles.produce(steps):
        for place, run in write.runs(write.places[0], data):
            made[place.data_offset : place.data_offset + len(run)] = np.frombuffer(run, np.uint8)
    if overflows is not None:
        overflows.counts.update(tiles.overflows.counts)
    return made


def same(have: np.ndarray, want: torch.Tensor) -> bool:
    """Equal bit for bit, a NaN being like any other."""
    values = torch.from_numpy(have).view(want.dtype).reshape(want.shape)
    nan = torch.isnan(want)
    bits = torch.int32 if want.dtype == torch.float32 else torch.int16
    return bool(torch.equal(torch.isnan(values), nan) and torch.equal(values.view(bits)[~nan], want.contiguous().view(bits)[~nan]))


@settings(max_examples=120, deadline=None)
@given(data=st.data(), matrix=matrices(), transposed=st.booleans(), budget=st.sampled_from([64, 700, 1 << 20]))
def test_any_box_has_the_values_that_torch_gives_it(data: st.DataObject, matrix: Quantised, transposed: bool, budget: int) -> None:
    box = []
    for size in matrix.codes.shape:
        start = data.draw(st.integers(0, size - 1))
        box.append((start, data.draw(st.integers(start + 1, size))))
    # The product's type, and the target's: what is wanted in fp16 is rounded once, from float32.
    product, dtype = data.draw(st.sampled_from([("BF16", "BF16"), ("F32", "F32"), ("F32", "F16")]))
    want = matrix.reference(dtype)[box[0][0] : box[0][1], box[1][0] : box[1][1]]
    overflows = Overflows()
    have = dequantised(matrix, (box[0], box[1]), transposed, dtype, budget, product, overflows)
    assert same(have, want.T.contiguous() if transposed else want.contiguous())
    rows, columns = matrix.codes.shape
    factors = matrix.scales.float().repeat_interleave(matrix.block[0], 0).repeat_interleave(matrix.block[1], 1)[:rows, :columns]
    finite = (torch.isfinite(matrix.codes.view(TORCH[matrix.dtype]).float()) & torch.isfinite(factors))[
        box[0][0] : box[0][1], box[1][0] : box[1][1]
    ]
    became = int((finite & torch.isinf(want)).sum())
    # A tile may read a little more than it needs.
    assert overflows.counts[0] >= became
    assert became or not overflows.counts[0] or budget < 1 << 20 or want.shape != (rows, columns)


def test_real_block_sizes_with_rows_and_columns_left_over() -> None:
    rng = np.random.default_rng(0)
    codes = torch.from_numpy(rng.integers(0, 256, (300, 1000), np.uint8))
    matrix = Quantised(codes, torch.from_numpy(rng.random((3, 8), np.float32)), "F8_E4M3", (128, 128))
    for budget in (10_000, 1 << 20):
        assert same(dequantised(matrix, ((0, 300), (0, 1000)), False, "BF16", budget), matrix.reference())
        # A tensor rank's part of the input axis.
        assert same(dequantised(matrix, ((0, 300), (250, 500)), False, "BF16", budget), matrix.reference()[:, 250:500].contiguous())


def test_a_long_run_with_an_odd_number_of_elements() -> None:
    """It is long enough to be read around the page cache, for which its room in the buffer is moved."""
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (401, 401), np.uint8))
    matrix = Quantised(codes, torch.ones(4, 4), "F8_E4M3", (128, 128))
    assert same(dequantised(matrix, ((0, 401), (0, 401)), False, "BF16", 1 << 20), matrix.reference())


def test_a_cast_follows_the_one_rounding() -> None:
    matrix = Quantised(torch.full((1, 1), 0x3B, dtype=torch.uint8), torch.full((1, 1), 1.001), "F8_E4M3", (128, 128))
    have = dequantised(matrix, ((0, 1), (0, 1)), False, "F32", 1 << 20)
    assert same(have, matrix.reference().float())


@pytest.mark.parametrize("dtype", sorted(NUMBERS))
def test_all_256_numbers_are_torchs(dtype: str) -> None:
    want = torch.arange(256, dtype=torch.uint8).view(TORCH[dtype]).float().numpy()
    np.testing.assert_array_equal(NUMBERS[dtype], want)
    np.testing.assert_array_equal(np.signbit(NUMBERS[dtype][want == 0]), np.signbit(want[want == 0]))


def test_scales_may_be_powers_of_two() -> None:
    raw = torch.arange(256, dtype=torch.uint8)
    np.testing.assert_array_equal(decode_scales(raw.numpy(), "F8_E8M0"), raw.view(torch.float8_e8m0fnu).float().numpy())
