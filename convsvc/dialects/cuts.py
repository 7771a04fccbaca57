"""Stored tensors that are cut into boxes, which lie in several files: what of a whole layout is in which of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convsvc.dialects.base import Entry, Layout
from convsvc.tensors.blocks import Laid
from convsvc.tensors.boxes import Box
from convsvc.tensors.runs import cut_laid


@dataclass(frozen=True, slots=True)
class Cut:
    """What a file holds of a tensor: the box `starts:stops` of the whole; `spare` where another file may hold it instead."""

    file: str
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    spare: bool = False


def cut_layout(whole: Layout, cuts: Mapping[str, tuple[Cut, ...]]) -> Layout:
    """What of each tensor lies in which files; files that hold the same box of it hold the same kind."""
    kinds: list[Laid] = []
    entries: list[Entry] = []
    for entry in whole.entries:
        laid = whole.kinds[entry.kind]
        numbers: dict[Box, int] = {}
        for cut in cuts.get(laid.name, ()):
            box = Box(cut.starts, cut.stops)
            if box not in numbers:
                numbers[box] = len(kinds)
                kinds.append(cut_laid(laid, *box))
            entries.append(Entry(cut.file, numbers[box], entry.unit, cut.spare))
    return Layout(tuple(kinds), tuple(entries))
