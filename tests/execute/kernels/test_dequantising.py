"""Encoded weights through real steps: any part of them is what decoding all and slicing gives. Reference: torch, by the formats' own rules.

What each rule is, is in the encodings' docstrings; whether it is the reference implementations', in tests/golden/test_quantised.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.encodings.numbers import NUMBERS, decode_scales
from convsvc.errors import SourceError
from convsvc.execute.check.overflows import Overflows
from tests.encodings.weights import Stored, decoded

Tensors = dict[str, torch.Tensor]
FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu}
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
SPECIAL = [None, float("nan"), float("inf"), 0.0, -1.5, 1e-40, 3e38]
# The weight's name, its pieces, and its values in float32 as everybody sees it: [rows, columns], or [expert, rows, columns].
Made = tuple[str, Tensors, torch.Tensor, dict[str, object]]


def bytes_of(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 256, shape, np.uint8))


def words(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(-(2**31), 2**31, shape).astype(np.int32))


def factors(rng: np.random.Generator, special: float | None, *shape: int) -> torch.Tensor:
    made = torch.from_numpy(rng.lognormal(-6, 3, shape).astype(np.float32))
    if special is not None and made.numel():
        made.view(-1)[-1] = special
    return made


def repeated(each: torch.Tensor, shape: tuple[int, ...], rows: int, columns: int) -> torch.Tensor:
    return each.repeat_interleave(rows, -2).repeat_interleave(columns, -1)[..., : shape[-2], : shape[-1]]


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    return torch.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1).long()


def in_words(each: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Codes along the last axis."""
    shifts = torch.tensor(order or range(32 // bits)) * bits
    return ((each.long()[..., None] >> shifts) & ((1 << bits) - 1)).reshape(*each.shape[:-1], -1)


def float8(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    block = (int(rng.integers(1, 40)), int(rng.integers(1, 40)))
    kind, experts = ("F8_E4M3", "F8_E5M2")[rng.integers(2)], (3,) if rng.integers(2) else ()
    codes = bytes_of(rng, *experts, rows, columns).view(FLOAT8[kind])
    scales = factors(rng, special, *experts, -(-rows // block[0]), -(-columns // block[1])).to(
        (torch.float32, torch.bfloat16)[rng.integers(2)]
    )
    values = codes.float() * repeated(scales.float(), codes.shape, *block)
    return "w.weight", {"w.weight": codes, "w.weight_scale_inv": scales}, values, {"weight_block_size": list(block)}


def float8_rows(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    codes, scales = bytes_of(rng, rows, columns).view(torch.float8_e4m3fn), factors(rng, special, rows, 1)
    return "w.weight", {"w.weight": codes, "w.weight_scale": scales}, codes.float() * scales, {}


def float8_exponents(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    codes = bytes_of(rng, rows, columns).view(torch.float8_e4m3fn)
    scales = bytes_of(rng, -(-rows // 32), -(-columns // 32)).view(torch.float8_e8m0fnu)
    return "w.weight", {"w.weight": codes, "w.scale": scales}, codes.float() * repeated(scales.float(), codes.shape, 32, 32), {
        "weight_block_size": [32, 32]
    }  # fmt: skip


def mxfp8(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    codes, scales = bytes_of(rng, rows, columns).view(torch.float8_e4m3fn), bytes_of(rng, rows, -(-columns // 32))
    values = codes.float() * repeated(scales.view(torch.float8_e8m0fnu).float(), codes.shape, 1, 32)
    return "w.weight", {"w.weight": codes, "w.weight_scale": scales}, values, {}


def mxfp4(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    groups = -(-columns // 32)
    codes, scales = bytes_of(rng, rows, groups * 16), bytes_of(rng, rows, groups)
    values = E2M1[nibbles(codes)] * repeated(scales.view(torch.float8_e8m0fnu).float(), (rows, groups * 32), 1, 32)
    return "w.weight", {"w.weight": codes.view(torch.int8), "w.scale": scales.view(torch.float8_e8m0fnu)}, values, {}


def mxfp4_blocks(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    groups = -(-columns // 32)
    codes, scales = bytes_of(rng, 2, rows, groups, 16), bytes_of(rng, 2, rows, groups)
    values = E2M1[nibbles(codes.flatten(-2))] * repeated(scales.view(torch.float8_e8m0fnu).float(), (rows, groups * 32), 1, 32)
    return "w", {"w_blocks": codes, "w_scales": scales}, values.transpose(-1, -2), {}


def nvfp4(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    groups = -(-columns // 16)
    codes, scales, second = bytes_of(rng, rows, groups * 8), bytes_of(rng, rows, groups).view(torch.float8_e4m3fn), factors(rng, special, 1)
    divides = bool(rng.integers(2))
    group_scales = scales.float() / second if divides else scales.float() * second
    names = ("w.weight_packed", "w.weight_global_scale") if divides else ("w.weight", "w.weight_scale_2")
    values = E2M1[nibbles(codes)] * repeated(group_scales, (rows, groups * 16), 1, 16)
    return "w.weight", {names[0]: codes, "w.weight_scale": scales, names[1]: second}, values, {}


def packed(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    bits, group = int((2, 4, 8)[rng.integers(3)]), int((16, 32, 64)[rng.integers(3)])
    per = 32 // bits
    codes, scales = words(rng, rows, -(-columns // per)), factors(rng, special, rows, -(-columns // group)).bfloat16()
    pieces = {"w.weight_packed": codes, "w.weight_scale": scales, "w.weight_shape": torch.tensor([rows, columns])}
    numbers = in_words(codes, bits)[:, :columns] - (1 << (bits - 1))
    if rng.integers(2):
        zeros = words(rng, -(-rows // per), scales.shape[1])
        pieces["w.weight_zero_point"] = zeros
        along = in_words(zeros.T.contiguous(), bits).T[:rows] - (1 << (bits - 1))
        numbers = numbers - repeated(along, (rows, columns), 1, group)
    values = numbers.float() * repeated(scales.float(), (rows, columns), 1, group)
    return "w.weight", pieces, values, {"weights": {"num_bits": bits, "group_size": group}}


def gptq(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    bits = int((2, 4, 8)[rng.integers(3)])
    per = 32 // bits
    inputs, outputs, groups = -(-columns // per) * per, -(-rows // per) * per, 3
    codes, zeros, of = (
        words(rng, inputs // per, outputs),
        words(rng, groups, outputs // per),
        torch.from_numpy(rng.integers(0, groups, inputs)),
    )
    scales = factors(rng, special, groups, outputs).half()
    values = (in_words(codes.T.contiguous(), bits) - in_words(zeros, bits)[of].T).float() * scales.float()[of].T
    pieces = {"w.qweight": codes, "w.qzeros": zeros, "w.scales": scales, "w.g_idx": of.int()}
    return "w.weight", pieces, values, {"bits": bits, "checkpoint_format": "gptq_v2"}


def awq(rng: np.random.Generator, rows: int, columns: int, special: float | None) -> Made:
    inputs, outputs, group = -(-columns // 16) * 16, -(-rows // 8) * 8, 16
    codes, zeros = words(rng, inputs, outputs // 8), words(rng, inputs // group, outputs // 8)
    scales = factors(rng, special, inputs // group, outputs).half()
    order = (0, 4, 1, 5, 2, 6, 3, 7)
    numbers = in_words(codes, 4, order) - in_words(zeros, 4, order).repeat_interleave(group, 0)
    return (
        "w.weight",
        {"w.qweight": codes, "w.qzeros": zeros, "w.scales": scales},
        (numbers.float() * scales.float().repeat_interleave(group, 0)).T,
        {},
    )


MAKERS: dict[str, Callable[[np.random.Generator, int, int, float | None], Made]] = {
    each.__name__: each for each in (float8, float8_rows, float8_exponents, mxfp8, mxfp4, mxfp4_blocks, nvfp4, packed, gptq, awq)
}


def same(have: torch.Tensor, want: torch.Tensor) -> bool:
    """Equal bit for bit, a NaN being like any other."""
    nan = torch.isnan(want)
    bits = torch.int32 if want.dtype == torch.float32 else torch.int16
    return have.shape == want.shape and bool(
        torch.equal(torch.isnan(have), nan) and torch.equal(have.contiguous().view(bits)[~nan], want.contiguous().view(bits)[~nan])
    )


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_box_is_what_decoding_all_and_slicing_gives(kind: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 70))
    name, pieces, values, config = MAKERS[kind](rng, rows, columns, data.draw(st.sampled_from(SPECIAL)))
    box = []
    for size in values.shape:
        start = data.draw(st.integers(0, size - 1))
        box.append((start, data.draw(st.integers(start + 1, size))))
    order = data.draw(st.permutations(range(values.ndim)))
    dtype, budget = data.draw(st.sampled_from(["BF16", "F32", "F16"])), data.draw(st.sampled_from([300, 4000, 1 << 20]))
    kinds = {"BF16": torch.bfloat16, "F32": torch.float32, "F16": torch.float16}
    part = values[tuple(slice(*each) for each in box)]
    overflows = Overflows()
    have = decoded(Stored.of(pieces), name, dtype, config, tuple(box), tuple(order), budget, overflows, tuple(values.shape))
    want = part.to(kinds[dtype])
    assert same(have, want.permute(*order))
    # What was infinite or no number before is not counted; a tile may read a little more than it needs.
    if kind.startswith("float8") and dtype == "BF16" and budget == 1 << 20 and part.shape == values.shape and not torch.isnan(want).any():
        finite = torch.isfinite(part)
        assert overflows.counts[0] >= int((finite & torch.isinf(want)).sum())


def test_products_that_become_infinite_are_counted() -> None:
    codes, scales = torch.full((4, 4), 0x7E, dtype=torch.uint8), torch.tensor([[1e36], [1.0], [float("inf")], [float("nan")]])
    overflows = Overflows()
    decoded(Stored.of({"w.weight": codes.view(torch.float8_e4m3fn), "w.weight_scale": scales}), "w.weight", "BF16", overflows=overflows)
    assert overflows.counts[0] == 4
    packed = {"w.weight_packed": torch.full((1, 16), 0x77, dtype=torch.uint8), "w.weight_scale": torch.full((1, 1), 254, dtype=torch.uint8)}
    overflows = Overflows()
    decoded(Stored.of(packed), "w.weight", "BF16", overflows=overflows)
    assert overflows.counts[0] == 32


@pytest.mark.parametrize("kind", ["float8", "mxfp4", "nvfp4", "packed"])
def test_real_sizes_with_a_tensor_ranks_part_of_the_input_axis(kind: str) -> None:
    name, pieces, values, config = MAKERS[kind](np.random.default_rng(3), 300, 1024, None)
    values = values.reshape(-1, *values.shape[-2:])[0] if values.ndim == 2 else values
    for columns in ((0, 1024), (256, 512), (250, 513)):
        for budget in (10_000, 1 << 22):
            box = (*((0, size) for size in values.shape[:-1]), columns)
            have = decoded(Stored.of(pieces), name, "BF16", config, box, budget=budget, shape=tuple(values.shape))
            assert same(have, values[..., slice(*columns)].bfloat16())


def test_a_weight_of_no_elements_is_none() -> None:
    pieces = {"w.weight": torch.zeros(0, 64, dtype=torch.uint8).view(torch.float8_e4m3fn), "w.weight_scale_inv": torch.zeros(0, 1)}
    found = Stored.of(pieces).checkpoint().found["", "w.weight"]
    assert found.tensor.shape == (0, 64)


def test_zero_points_that_may_mean_two_things_are_refused() -> None:
    pieces = {
        "w.qweight": torch.zeros(4, 8, dtype=torch.int32), "w.qzeros": torch.full((1, 1), -1, dtype=torch.int32),
        "w.scales": torch.ones(1, 8).half(), "w.g_idx": torch.zeros(32, dtype=torch.int32),
    }  # fmt: skip
    with pytest.raises(SourceError, match=r"w\.weight cannot be decoded: a zero point of 15 in qzeros"):
        decoded(Stored.of(pieces), "w.weight", "BF16", {"bits": 4})
    with pytest.raises(SourceError, match="g_idx says group 7, there are 1"):
        decoded(
            Stored.of(pieces | {"w.g_idx": torch.full((32,), 7, dtype=torch.int32)}), "w.weight", "BF16", {"checkpoint_format": "gptq_v2"}
        )


@pytest.mark.parametrize("dtype", sorted(FLOAT8))
def test_all_256_numbers_are_torchs(dtype: str) -> None:
    want = torch.arange(256, dtype=torch.uint8).view(FLOAT8[dtype]).float().numpy()
    np.testing.assert_array_equal(NUMBERS[dtype], want)
    np.testing.assert_array_equal(np.signbit(NUMBERS[dtype][want == 0]), np.signbit(want[want == 0]))


def test_scales_may_be_powers_of_two() -> None:
    raw = torch.arange(256, dtype=torch.uint8)
    for dtype in ("F8_E8M0", "U8"):
        np.testing.assert_array_equal(decode_scales(raw.numpy(), dtype), raw.view(torch.float8_e8m0fnu).float().numpy())
