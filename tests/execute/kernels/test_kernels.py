"""Strided copies move bits, whatever the strides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.execute.kernels.copying import strided_copy, view_bits


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_strided_copy_is_what_numpy_assigns(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 65, 300]), min_size=1, max_size=3)))
    itemsize = data.draw(st.sampled_from([1, 2, 4, 8]))
    order = data.draw(st.permutations(range(len(shape))))
    source = np.arange(np.prod(shape)).astype(f"u{itemsize}").reshape([shape[axis] for axis in order])
    source = source.transpose(np.argsort(order))
    target = np.zeros(shape, source.dtype)
    strided_copy(target, source)
    np.testing.assert_array_equal(target, source)


def test_a_view_keeps_nan_payloads() -> None:
    bits = np.array([0x7F81, 0xFFC3, 0x7F80, 0x0001], np.uint16)
    buffer = np.zeros(24, np.uint8)
    strided_copy(view_bits(buffer, 8, (4,), (2,), "BF16"), view_bits(bits.view(np.uint8), 0, (4,), (1,), "BF16"))
    assert buffer.view(np.uint16)[4::2].tolist() == bits.tolist()


def test_a_view_outside_its_buffer_is_refused() -> None:
    with pytest.raises((ValueError, TypeError)):
        view_bits(np.zeros(8, np.uint8), 4, (4,), (1,), "I16")
