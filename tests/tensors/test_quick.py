"""Records that are made quickly are those that are made as usual."""

from __future__ import annotations

import pickle

from convsvc.formats.base import StoredTensor, stored_tensors, tensor_bytes
from convsvc.plan.records import Place, PlannedTensor, View
from convsvc.tensors.quick import quick


def test_a_record_made_quickly_is_the_record():
    usual = View((0,), (4,), (1,), (Place(2, 8),))
    made = quick(View, ((0,), (4,), (1,), (quick(Place, (2, 8)),)))
    assert type(made) is View
    assert made == usual
    assert hash(made) == hash(usual)
    assert made.volume == 4
    assert pickle.loads(pickle.dumps(made)) == usual


def test_a_record_made_quickly_has_a_value_for_every_field():
    assert quick(PlannedTensor, (0, "w", "BF16", (2,), 8, 4, None)) == PlannedTensor(0, "w", "BF16", (2,), 8, 4)


def test_stored_tensors_made_at_once_know_their_sizes():
    one, other = stored_tensors([("a", "F32", (2, 3), 0), ("b", "BF16", (), 24)])
    assert (one, other) == (StoredTensor("a", "F32", (2, 3), 0), StoredTensor("b", "BF16", (), 24))
    assert [one.size_bytes, other.size_bytes, tensor_bytes("U8", (0, 5))] == [24, 2, 0]
