"""Values stored less 1 are float32's difference and sum, each rounded once."""

from __future__ import annotations

import numpy as np
import pytest

from convsvc.encodings import less_one
from convsvc.encodings.base import Piece, Rect, Region
from convsvc.encodings.numbers import round_to_bf16, widen

ROWS, COLUMNS = 3, 40
TYPES = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}


def bits_of(values: np.ndarray, dtype: str) -> np.ndarray:
    return round_to_bf16(values) if dtype == "BF16" else values.astype(np.float16 if dtype == "F16" else np.float32).view(TYPES[dtype])


def decoded(stored: np.ndarray, dtype: str, to: str) -> np.ndarray:
    form = less_one.form_of(dtype, (ROWS, COLUMNS))
    piece = Piece(form.grids[0], form, Region(0, ROWS, 1, 0, COLUMNS), stored.view(np.uint8).reshape(ROWS, -1))
    out = np.empty((ROWS, COLUMNS), TYPES[to])
    assert less_one.decode(form, Rect(0, ROWS, 1, 0, COLUMNS, 0), (piece,), out, to) == 0
    return out


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_stored_is_the_value_less_one(dtype: str) -> None:
    values = np.random.default_rng(0).normal(1, 1, (ROWS, COLUMNS)).astype(np.float32)
    (stored,) = less_one.encode(less_one.form_of(dtype, values.shape), values)
    assert np.array_equal(stored.reshape(-1).view(TYPES[dtype]), bits_of(values - np.float32(1), dtype).reshape(-1))


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_read_is_one_more(dtype: str) -> None:
    stored = bits_of(np.random.default_rng(1).normal(0, 1, (ROWS, COLUMNS)).astype(np.float32), dtype)
    to = "BF16" if dtype == "BF16" else "F32"
    assert np.array_equal(decoded(stored, dtype, to), bits_of(widen(stored, dtype) + np.float32(1), to))


def test_every_bf16_between_a_half_and_256_comes_back_and_few_below_do() -> None:
    def come_back(first: float, last: float) -> np.ndarray:
        start, stop = (int(round_to_bf16(np.array([each], np.float32))[0]) for each in (first, last))
        values = np.resize(np.arange(start, stop + 1, dtype=np.uint16), -(-(stop - start + 1) // (ROWS * COLUMNS)) * ROWS * COLUMNS)
        same = []
        for part in values.reshape(-1, ROWS, COLUMNS):
            (stored,) = less_one.encode(less_one.form_of("BF16", part.shape), np.ascontiguousarray(widen(part, "BF16")))
            same.append(decoded(np.ascontiguousarray(stored).view(np.uint16), "BF16", "BF16") == part)
        return np.array(same)

    assert come_back(0.5, 256).all()
    assert come_back(0.001, 0.4).mean() < 0.3
