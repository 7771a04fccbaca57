"""Stored tensors that are cut into boxes, which lie in several files: what of a whole layout is in which of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from convsvc.dialects.layout import Entry, Layout
from convsvc.dialects.overlaps import Seams, cells, in_cells
from convsvc.tensors.blocks import Block, Laid
from convsvc.tensors.boxes import Box
from convsvc.tensors.quick import quick
from convsvc.tensors.runs import cut_laid

Corner = tuple[int, ...]


class Cut(NamedTuple):
    """What a file holds of a tensor: the box `starts:stops` of the whole; `spare` where another file may hold it instead.

    `seams` are where all its cuts begin and end, if some overlap. A tuple, as there are half a million where a trillion parameters are cut
    over eight ranks.
    """

    file: str
    starts: Corner
    stops: Corner
    spare: bool = False
    seams: Seams = ()


def cut_layout(whole: Layout, cuts: Mapping[str, tuple[Cut, ...]]) -> Layout:
    """What of each tensor lies in which files; files that hold the same box of it hold the same kind."""
    shared = _Shared()
    kinds: list[Laid] = []
    entries: list[Entry] = []
    for entry in whole.entries:
        laid = whole.kinds[entry.kind]
        numbers: dict[tuple[Corner, Corner], int] = {}
        alike = shared.of(laid)
        unit = entry.unit
        for file, starts, stops, spare, seams in cuts.get(laid.name, ()):
            box = starts, stops
            number = numbers.get(box)
            if number is None:
                number = numbers[box] = len(kinds)
                kind = _cut_alike(laid, box, alike)
                kinds.append(in_cells(kind, (cut_laid(laid, *cell) for cell in cells(Box(*box), seams))) if seams else kind)
            entries.append(quick(Entry, (file, number, unit, spare)))
    return Layout(tuple(kinds), tuple(entries))


Alike = dict[tuple[Corner, Corner], Laid]


class _Shared:
    """Cuts that were worked out, by where the block lies in its stored tensor: the same in all layers and experts of a checkpoint."""

    def __init__(self) -> None:
        self._known: dict[object, Alike] = {}

    def of(self, laid: Laid) -> Alike | None:
        """The cuts of tensors that are laid as this one is; None for one that has several blocks, or none."""
        if len(laid.blocks) != 1:
            return None
        return self._known.setdefault((laid.shape, laid.padding, laid.idle, laid.blocks[0][1:]), {})


def _cut_alike(laid: Laid, box: tuple[Corner, Corner], alike: Alike | None) -> Laid:
    """As cut_laid, which is asked once for all that is laid alike. All pieces are of the one block's tensor."""
    if alike is None:
        return cut_laid(laid, *box)
    known = alike.get(box)
    if known is None:
        alike[box] = known = cut_laid(laid, *box)
        return known
    tensor = laid.blocks[0].tensor
    if len(known.blocks) == 1:  # nearly always
        blocks: tuple[Block, ...] = (quick(Block, (tensor, *known.blocks[0][1:])),)
    else:
        blocks = tuple([Block(tensor, *block[1:]) for block in known.blocks])
    return quick(Laid, (laid.name, known.shape, blocks, known.padding, laid.also, laid.optional, laid.written, laid.idle, laid.linear))
