"""Regions written in any order add up to the checksum of the whole, or to an error that says which bytes are missing."""

from __future__ import annotations

import json
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsvc.errors import VerifyError
from convsvc.execute.check import digests
from convsvc.execute.check.digests import Digests, Region

DATA = bytes(range(256)) * 4


def region(start: int, stop: int) -> Region:
    return Region(start, stop - start, zlib.crc32(DATA[start:stop]))


@given(cuts=st.sets(st.integers(1, len(DATA) - 1), max_size=20), data=st.data())
def test_regions_in_any_order_from_several_tasks_join_to_the_whole(cuts: set[int], data: st.DataObject) -> None:
    regions = data.draw(st.permutations([region(a, b) for a, b in pairwise([0, *sorted(cuts), len(DATA)])]))
    half = data.draw(st.integers(0, len(regions)))
    together = Digests()
    for part in (regions[:half], regions[half:]):
        task = Digests()
        for each in part:
            task.add(3, each)
        together.update_from_json(json.loads(json.dumps(task.as_json())))
    assert together.whole(3, len(DATA), "w") == zlib.crc32(DATA)


@pytest.mark.parametrize(
    ("regions", "how"),
    [
        ([(0, 10)], r"10:1024 were never written"),
        ([(0, 10), (20, 1024)], r"10:20 were never written"),
        ([(0, 10), (5, 1024)], r"5:10 were written twice"),
        ([(0, 1024), (0, 1024)], r"0:1024 were written twice"),
        ([], r"0:1024 were never written"),
    ],
)
def test_bytes_written_never_or_twice_are_named(regions: list[tuple[int, int]], how: str) -> None:
    kept = Digests()
    for start, stop in regions:
        kept.add(0, region(start, stop))
    with pytest.raises(VerifyError, match=f"tensor f/w: bytes {how}"):
        kept.whole(0, len(DATA), "f/w")


def test_an_empty_tensor_needs_no_region() -> None:
    assert Digests().whole(0, 0, "w") == 0


def test_many_regions_are_joined_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "JOIN_EVERY", 10)
    kept = Digests()
    for start in [*range(0, 1024, 2), *range(1, 1024, 2)]:
        kept.add(0, region(start, start + 1))
    assert kept.whole(0, len(DATA), "w") == zlib.crc32(DATA)
    assert kept.as_json() == {"0": [[0, 1024, zlib.crc32(DATA)]]}
