"""Layouts whose stored tensors are cut into boxes."""

from __future__ import annotations

import pytest

from convsvc.dialects import cuts
from convsvc.dialects.cuts import Cut, cut_layout
from convsvc.dialects.layout import Entry, Layout
from convsvc.tensors.blocks import Laid, lay
from convsvc.tensors.declare import logical, row
from convsvc.tensors.runs import cut_laid

HALVES = (Cut("a", (0, 0), (3, 4)), Cut("b", (3, 0), (6, 4)))


def laid_as(name: str, stored: str = "(head head_dim) hidden", hidden: int = 4) -> Laid:
    return next(iter(lay(row(name, logical(name, "head head_dim hidden"), stored), {"head": 3, "head_dim": 2, "hidden": hidden}, {})))


def cut_all(*kinds: Laid) -> tuple[Laid, ...]:
    whole = Layout(kinds, tuple(Entry("", number, 0) for number in range(len(kinds))))
    return cut_layout(whole, dict.fromkeys((laid.name for laid in kinds), HALVES)).kinds


def expected(*kinds: Laid) -> tuple[Laid, ...]:
    return tuple(cut_laid(laid, cut.starts, cut.stops) for laid in kinds for cut in HALVES)


def test_tensors_that_are_laid_alike_are_cut_as_each_alone_would_be() -> None:
    # The middle one is laid otherwise: its head's elements come before the heads.
    kinds = laid_as("one"), laid_as("turned", "(head_dim head) hidden")._replace(also=("old",)), laid_as("two")._replace(optional=True)
    assert cut_all(*kinds) == expected(*kinds)


def test_several_blocks_of_one_stored_tensor_are_cut_by_themselves() -> None:
    one, two = (laid_as(name, hidden=2) for name in ("q", "k"))
    block, other = [laid.blocks[0]._replace(offset=at, strides=(8, 4, 1)) for laid, at in ((one, 0), (two, 2))]
    first = Laid("first", (6, 4), (block, other))
    second = Laid("second", (6, 4), (other._replace(offset=0), block._replace(offset=2)))
    assert cut_all(first, second) == expected(first, second)


def test_a_cut_is_worked_out_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(laid: Laid, starts: tuple[int, ...], stops: tuple[int, ...]) -> Laid:
        asked.append(laid.name)
        return cut_laid(laid, starts, stops)

    monkeypatch.setattr(cuts, "cut_laid", counted)
    cut_all(*(laid_as(f"layers.{number}") for number in range(5)))
    assert asked == ["layers.0", "layers.0"]
