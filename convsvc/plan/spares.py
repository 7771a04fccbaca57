"""Whether what a checkpoint does without in one file is held by others: its redundancy was removed, and the elements decide. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from convsvc.tensors.blocks import Laid
from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import first_gap, shown_box


class Covered:
    """The elements in the kinds of stored tensors that are there, by number."""

    def __init__(self, kinds: Sequence[Laid], there: Collection[int]) -> None:
        self._kinds, self._there = kinds, there
        self._gaps: dict[int, tuple[str, ...]] = {}
        self._boxes: dict[str, list[Box]] | None = None

    def holds(self, kind: int) -> bool:
        """Whether every element of a kind lies in what is there: in another one of it, or in several others."""
        return kind in self._there or not self.gaps(kind)

    def gaps(self, kind: int) -> tuple[str, ...]:
        """The first box that nothing holds of each logical tensor in a kind, in words."""
        if kind not in self._gaps:
            blocks = [(block.tensor, block.box) for block in self._kinds[kind].blocks if block.volume]
            missing = [(tensor, first_gap(box, self._held(tensor.name))) for tensor, box in blocks]
            self._gaps[kind] = tuple(f"{tensor.name} {shown_box(tensor.axes, box)}" for tensor, box in missing if box is not None)
        return self._gaps[kind]

    def _held(self, name: str) -> Sequence[Box]:
        if self._boxes is None:
            boxes: dict[str, dict[Box, None]] = {}
            for kind in self._there:
                for block in self._kinds[kind].blocks:
                    boxes.setdefault(block.tensor.name, {})[block.box] = None
            self._boxes = {tensor: list(held) for tensor, held in boxes.items()}
        return self._boxes.get(name, ())
