"""Casts against torch, bit for bit; LoRA against the formula."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from convsvc.errors import PlanError
from convsvc.execute.kernels.copying import UNSIGNED, view_bits
from convsvc.execute.kernels.transforms import NARROWER, cast, cast_copy, count_overflows
from convsvc.execute.pipeline import Tiles
from convsvc.execute.steps.budgets import Budget
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.records import Tensors
from convsvc.plan.records import Operand, Place, PlannedTensor, Transfer, Transform, View
from convsvc.tensors.dtypes import size_of
from tests.execute.steps.test_steps import Memory, strides_in

TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
SIGNED = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def sample_bits(dtype: str) -> np.ndarray:
    """All bit patterns of a 16-bit type; of others, random ones and all 16-bit ones widened, next to every rounding boundary."""
    itemsize = size_of(dtype)
    if itemsize == 2:
        return np.arange(1 << 16).astype(np.uint16)
    top = np.arange(1 << 16).astype(UNSIGNED[itemsize]) << np.array(8 * itemsize - 16, UNSIGNED[itemsize])
    rng = np.random.default_rng(1)
    low = [top | np.array(bits, UNSIGNED[itemsize]) for bits in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    return np.concatenate([*low, rng.integers(0, 1 << 8 * itemsize, 1 << 16, UNSIGNED[itemsize])])


@pytest.mark.parametrize(("source", "target"), [*permutations(TORCH, 2)])
def test_a_cast_gives_torchs_bits_and_keeps_nans(source: str, target: str) -> None:
    bits = sample_bits(source)
    given = torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(TORCH[source])
    want = given.to(TORCH[target])
    have = torch.from_numpy(cast(bits, source, target).view(f"i{size_of(target)}"))
    nan = torch.isnan(given)
    assert torch.equal(have[~nan], want[~nan].view(SIGNED[size_of(target)]))
    assert torch.isnan(have.view(TORCH[target]))[nan].all()


@pytest.mark.parametrize("wide", ["F32", "F64"])
def test_widening_bf16_and_back_is_the_identity_on_every_bit_pattern(wide: str) -> None:
    bits = np.arange(1 << 16).astype(np.uint16)
    back = cast(cast(bits, "BF16", wide), wide, "BF16")
    # A signaling NaN becomes a quiet one on its way through F64: the processor does it.
    same = back if wide == "F32" else np.where((bits & 0x7F80 == 0x7F80) & (bits & 0x7F != 0), bits, back)
    np.testing.assert_array_equal(same, bits)


def test_an_integer_is_not_cast() -> None:
    with pytest.raises(PlanError, match="no cast from I32 to BF16"):
        cast(np.zeros(1, np.uint32), "I32", "BF16")


@pytest.mark.parametrize("shape", [(3, 1 << 20), (1 << 11, 1 << 10), (2 << 20,)])
def test_large_casts_are_done_in_pieces(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    target = np.zeros(shape, np.uint16)
    cast_copy(target, values.view(np.uint32), "F32", "BF16")
    np.testing.assert_array_equal(target, torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16))


def merged(w: np.ndarray, a: np.ndarray, b: np.ndarray, axes: list[list[int | None]], budget_bytes: int, target: str = "F32") -> np.ndarray:
    """W + 0.5 * B A through real steps; all in float32 files, W's target in its own axes' order."""
    arrays = [np.ascontiguousarray(array, np.float32) for array in (w, a, b)]
    tensors = [PlannedTensor(n, f"t{n}", "F32", x.shape, 0, x.nbytes) for n, x in enumerate(arrays)]
    made = np.zeros(w.size, UNSIGNED[size_of(target)])
    out = [PlannedTensor(0, "w", target, w.shape, 0, made.nbytes)]

    def whole(number: int, array: np.ndarray) -> View:
        return View((0,) * array.ndim, array.shape, strides_in(array.shape, tuple(range(array.ndim))), (Place(number, 0),))

    operands = tuple(Operand(name, x.shape, (whole(n, x),)) for n, name, x in ((1, "A", a), (2, "B", b)))
    transform = Transform("lora", {"scale": 0.5, "axes": axes}, operands)
    transfer = Transfer("w", w.shape, tuple(range(w.ndim)), (whole(0, w),), (whole(0, w),), (), transform)
    tiles = Tiles(Memory([x.tobytes() for x in arrays]), Budget(budget_bytes))
    steps = list(compile_steps(transfer, Tensors(tensors, out), Budget(budget_bytes)))
    for write, data in tiles.produce(steps):
        for place, run in write.runs(write.places[0], data):
            made.view(np.uint8)[place.data_offset : place.data_offset + len(run)] = np.frombuffer(run, np.uint8)
    assert budget_bytes > 1 << 16 or len(steps) > 1
    return made.reshape(w.shape)


def whole_numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(-8, 8, shape).astype(np.float32)


CASES: dict[str, Any] = {
    "a matrix": ((12, 10), (4, 10), (12, 4), [[None, 1], [0, None]], "rj,ir->ij"),
    "a fused attention weight": ((2, 3, 4, 10), (5, 10), (2, 3, 4, 5), [[None, 3], [0, 1, 2, None]], "rh,gsdr->gsdh"),
    "experts with an A each": ((3, 6, 2, 4), (3, 5, 6), (3, 2, 4, 5), [[0, None, 1], [0, 2, 3, None]], "erh,egfr->ehgf"),
    "experts with one A for all": ((3, 6, 4), (5, 6), (3, 4, 5), [[None, 1], [0, 2, None]], "rh,efr->ehf"),
}


@pytest.mark.parametrize("budget_bytes", [1200, 1 << 20])
@pytest.mark.parametrize("name", CASES)
def test_an_adapter_is_merged_exactly_where_the_numbers_are_exact(name: str, budget_bytes: int) -> None:
    w_shape, a_shape, b_shape, axes, formula = CASES[name]
    w, a, b = whole_numbers(*w_shape), whole_numbers(*a_shape), whole_numbers(*b_shape)
    have = merged(w, a, b, axes, budget_bytes).view(np.float32)
    np.testing.assert_array_equal(have, w + 0.5 * np.einsum(formula, a, b))


def test_a_merged_weight_is_rounded_once() -> None:
    w, a, b = np.full((1, 1), 1.0), np.full((1, 1), 1.0), np.full((1, 1), 2.0**-7)  # 1 + 2**-8 is a tie in bf16
    have = merged(w, a, b, [[None, 1], [0, None]], 1 << 20, "BF16")
    assert have.tolist() == [[0x3F80]]


def test_a_view_of_a_buffer_may_start_anywhere() -> None:
    buffer = np.arange(32, dtype=np.uint8)
    assert view_bits(buffer, 4, (2, 2), (4, 1), "I16").tobytes() == bytes([4, 5, 6, 7, 12, 13, 14, 15])


@pytest.mark.parametrize(("source", "target"), [*permutations(TORCH, 2)])
def test_every_finite_number_that_becomes_infinite_is_counted_and_nothing_else(source: str, target: str) -> None:
    bits = sample_bits(source)
    given = torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(TORCH[source])
    want = int((torch.isfinite(given) & torch.isinf(given.to(TORCH[target]))).sum())
    assert count_overflows(bits, source, cast(bits, source, target), target) == want
    assert bool(want) is (target in NARROWER.get(source, ()))
    # In pieces, and along a stride.
    assert cast_copy(np.zeros((1, bits.size), UNSIGNED[size_of(target)]), np.repeat(bits, 2)[None, ::2], source, target) == want
