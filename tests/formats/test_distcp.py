"""Where the items of a .distcp file lie."""

from __future__ import annotations

from itertools import pairwise

from convsvc.formats import distcp
from convsvc.formats.base import TensorSpec

SPECS = [TensorSpec(f"{size}.{dtype}", dtype, (size,)) for dtype in ("BF16", "F32", "U8") for size in (1, 7, 0, 64, 4096, 70_001, 3)]


def test_the_values_of_every_tensor_begin_with_a_page_small_ones_too() -> None:
    assert [tensor.name for tensor in distcp.plan_skeleton(SPECS).tensors if tensor.size_bytes and tensor.file_offset % 4096] == []


def test_items_follow_each_other_and_a_small_one_takes_one_page() -> None:
    skeleton = distcp.plan_skeleton(SPECS)
    items = [distcp.item_of(tensor) for tensor in skeleton.tensors]
    assert all(first + size <= after for (first, size), (after, _) in pairwise(items))
    assert sum(items[-1]) == skeleton.size_bytes
    small = distcp.plan_skeleton([TensorSpec(f"norm.{layer}", "BF16", (64,)) for layer in range(100)])
    assert small.size_bytes <= 101 * 4096
