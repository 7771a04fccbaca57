"""Four-bit integers looked up in pairs are the products that float32 makes, rounded once, whatever their factors are."""

import numpy as np
import pytest
import torch

from convsvc.encodings import packed_int
from convsvc.encodings.base import Part, Piece, Rect, Region
from convsvc.encodings.known import claims
from convsvc.encodings.pairs import look_up_integers

ROWS, COLUMNS, GROUP = 24, 96, 32
BF16_ONE, BF16_SMALLEST, BF16_LARGEST = 0x3F80, 0x0080, 0x7F7F


class Look:
    def part(self, name: str) -> Part | None:
        parts = {
            "w_packed": Part("I32", (ROWS, COLUMNS // 8)),
            "w_scale": Part("BF16", (ROWS, COLUMNS // GROUP)),
            "w_shape": Part("I64", (2,)),
        }
        return parts.get(name)

    def said(self, name: str) -> tuple[object, ...]:
        return ()


def pieces_of(codes: np.ndarray, scales: np.ndarray) -> tuple[object, tuple[Piece, ...]]:
    form = next(iter(claims("w_packed", Look()))).form
    data = codes.view(np.uint8), scales.view(np.uint8), np.array([[ROWS, COLUMNS]], np.int64).view(np.uint8)
    pieces = [
        Piece(grid, form, Region(0, grid.height, 1, 0, grid.width), each.reshape(grid.height, -1))
        for grid, each in zip(form.grids, data, strict=True)
    ]
    return form, tuple(pieces)


def products(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """As compressed-tensors does, the scale as float32."""
    numbers = np.stack([codes.astype(np.int32) & 15, codes.astype(np.int32) >> 4], -1).reshape(ROWS, COLUMNS) - 8
    factors = torch.from_numpy(scales.view(np.int16)).view(torch.bfloat16).float().repeat_interleave(GROUP, 1)
    return (torch.from_numpy(numbers).float() * factors).bfloat16().view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize(
    ("first", "stop", "looked_up"),
    [
        (0x3C00, 0x3C80, True),
        (0x3800, 0x4200, True),
        (BF16_SMALLEST, 0x0300, True),
        (0x3000, 0x4380, False),
        (0x0000, 0x0080, False),
        (0xBC00, 0xBC80, False),
        (0x7B00, BF16_LARGEST, False),
    ],
    ids=["one exponent", "twenty", "the smallest", "too far apart", "zero and subnormal", "negative", "infinite products"],
)
def test_products_are_rounded_once(first: int, stop: int, looked_up: bool) -> None:
    rng = np.random.default_rng(first)
    codes = rng.integers(0, 256, (ROWS, COLUMNS // 2), np.uint8)
    scales = rng.integers(first, stop, (ROWS, COLUMNS // GROUP)).astype(np.uint16)
    scales.flat[:2] = first, stop - 1
    form, pieces = pieces_of(codes, scales)
    made, rect = np.empty((ROWS, COLUMNS), np.uint16), Rect(0, ROWS, 1, 0, COLUMNS, 0)
    assert look_up_integers(rect, pieces[0], pieces[1], made) == looked_up
    packed_int.decode(form, rect, pieces, made, "BF16")
    np.testing.assert_array_equal(made, products(codes, scales))


def test_some_rows_and_columns_of_a_weight_are_looked_up_where_they_lie() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (ROWS, COLUMNS // 2), np.uint8)
    scales = rng.integers(BF16_ONE, BF16_ONE + 500, (ROWS, COLUMNS // GROUP)).astype(np.uint16)
    form, pieces = pieces_of(codes, scales)
    made = np.empty((5, 64), np.uint16)
    packed_int.decode(form, Rect(3, 5, 4, 32, 64, 0), pieces, made, "BF16")
    np.testing.assert_array_equal(made, products(codes, scales)[3:20:4, 32:])
