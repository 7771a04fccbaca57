"""A stored tensor that lies turned has the same blocks, with other strides."""

from __future__ import annotations

import numpy as np
import pytest

from convsvc.errors import LayoutError
from convsvc.plan.turning import turned
from convsvc.tensors.blocks import Laid, lay
from convsvc.tensors.declare import logical, row

FC1 = logical("fc1", "expert hidden glu ffn")
SIZES = {"expert": 3, "hidden": 4, "glu": 2, "ffn": 5}


def values(laid: Laid, flat: np.ndarray) -> np.ndarray:
    """The logical tensor that the blocks say lies in the flat elements."""
    made = np.full(laid.blocks[0].tensor.sizes, -1)
    for block in laid.blocks:
        steps = tuple(stride * flat.itemsize for stride in block.strides)
        part = np.ndarray(block.shape, flat.dtype, flat.data, block.offset * flat.itemsize, steps)
        made[tuple(slice(*each) for each in zip(block.starts, block.stops, strict=True))] = part
    return made


@pytest.mark.parametrize(
    "order", ["expert hidden (glu ffn)", "expert hidden (ffn glu)", "expert (ffn glu) hidden", "(expert glu ffn) hidden"]
)
def test_the_same_elements_are_found_where_the_last_two_axes_are_exchanged(order: str) -> None:
    (laid,) = lay(row("w", FC1, order), SIZES, {})
    stored = np.arange(int(np.prod(laid.shape))).reshape(laid.shape)
    have = values(turned(laid), np.ascontiguousarray(np.swapaxes(stored, -1, -2)).reshape(-1))
    assert (have == values(laid, stored.reshape(-1))).all()


def test_a_part_of_a_tensor_is_found_too() -> None:
    (laid,) = lay(row("w", FC1.at(glu="1"), "expert ffn hidden"), SIZES, {})
    stored = np.arange(60).reshape(laid.shape)
    have = values(turned(laid), np.ascontiguousarray(np.swapaxes(stored, -1, -2)).reshape(-1))
    assert (have == values(laid, stored.reshape(-1))).all()


def test_an_axis_that_lies_along_both_cannot_be_turned() -> None:
    whole = logical("w", "ffn")
    (laid,) = lay(row("w", whole, "ffn"), {"ffn": 20}, {})
    with pytest.raises(LayoutError, match="ffn lies along two of its axes"):
        turned(laid._replace(shape=(4, 5)))
