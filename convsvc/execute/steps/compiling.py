"""Compiles one transfer into steps that fit their buffers. Pure.

As a rule a step is a tile: it reads a box of the logical tensor, copies it, writes it. Where source and target store a large
matrix in different orders, such a tile is made of short runs on both sides, and a disk gives a hundred of them in the time of a
megabyte. There a tile is wide instead: as large as a buffer can be on one side, whose runs grow with it, and moved in pieces on
the other, where each piece is one long run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from convsvc.execute.steps.budgets import Budget, buffer_bytes
from convsvc.execute.steps.checks import Check, compile_checks
from convsvc.execute.steps.encoding import compile_encoded, split_encoded
from convsvc.execute.steps.held import HeldViews
from convsvc.execute.steps.inputs import lay_reads
from convsvc.execute.steps.matching import ViewIndex, bounding_box
from convsvc.execute.steps.merges import MERGE_BYTES_PER_ELEMENT, compile_merge
from convsvc.execute.steps.outputs import lay_groups, lay_writes
from convsvc.execute.steps.records import Held, Step, Tensors
from convsvc.execute.steps.shaping import run_in_tile, tile_shape
from convsvc.plan.records import Transfer, View
from convsvc.tensors.boxes import Box
from convsvc.tensors.dtypes import size_of

Made = TypeVar("Made")
Side = Literal["input", "output"]


def compile_steps(transfer: Transfer, tensors: Tensors, budget: Budget) -> Iterator[Step]:
    """The transfer's steps, each within the budget (or of one element), in the target's order.

    Tiles are cut along `transfer.order` first, so that a tile's region in a target that is stored in that order is one range;
    where the source is stored in another order, as `shaping.tile_shape` says. Fills need no step: a new file is zero.
    """
    plain, encoded = split_encoded(transfer, tensors)
    if plain.writes:
        yield from _Compiler(plain, tensors, budget).steps()
    yield from compile_encoded(encoded, tensors, budget)


class _Compiler:
    """What compiling the tiles of one transfer has in common."""

    def __init__(self, transfer: Transfer, tensors: Tensors, budget: Budget) -> None:
        self._transfer = transfer
        self._tensors = tensors
        self._budget = budget
        self._reads = ViewIndex(transfer.reads)
        self._writes = ViewIndex(transfer.writes)
        self._copies = ViewIndex(transfer.checks)
        # Bytes of an element of the box on each side; more where it is written several times with different neighbours.
        self._read_bytes = max((buffer_bytes(tensors.source[view.places[0].tensor]) for view in transfer.reads), default=1)
        wanted = sum(view.volume * size_of(tensors.target[view.places[0].tensor].dtype) for view in transfer.writes)
        self._write_bytes = wanted / bounding_box(transfer.writes).volume

    def steps(self) -> Iterator[Step]:
        box, order = bounding_box(self._transfer.writes), self._transfer.order
        shape = self._shape(box, self._tile_volume())
        wide = self._wide_shape(box, shape)
        for tile in box.cut(order, wide or shape):
            steps = self._wide_steps(tile) if wide else []
            yield from steps or self._tile_steps(tile, shape)

    def _tile_steps(self, box: Box, shape: tuple[int, ...]) -> Iterator[Step]:
        for tile in box.cut(self._transfer.order, shape):
            yield from _fitting(tile, self._transfer.order, self._compile_tile, lambda step: step.buffer_bytes, self._budget.step_bytes)

    def _tile_volume(self) -> int:
        """Elements of a tile that fit, if reads and writes are spread evenly; where they are not, tiles are halved later."""
        merged = MERGE_BYTES_PER_ELEMENT if self._transfer.transform else 0
        return max(1, int(self._budget.step_bytes / (self._read_bytes + merged + self._write_bytes)))

    def _shape(self, box: Box, volume: int) -> tuple[int, ...]:
        return tile_shape(box.shape, self._transfer.order, volume, self._transfer.reads, self._transfer.writes)

    def _compile_tile(self, tile: Box) -> Step | None:
        wanted = list(self._writes.meeting(tile))
        if not wanted:
            return None
        box, source = bounding_box(wanted), self._tensors.source
        held = list(self._reads.meeting(box))
        reading = lay_reads(held, source)
        checks = self._checks(box, HeldViews(held, reading))
        merge = None
        if self._transfer.transform is not None:
            merge = compile_merge(box, self._transfer.transform, held, reading, source)
            held, reading, checks = [merge.view], merge.reading, (*checks, *merge.checks)
        copies, writes, output = lay_writes(wanted, HeldViews(held, reading), self._tensors.target)
        return Step(reading.reads, copies, writes, reading.size_bytes, output, merge, reading.decodings, checks=checks)

    def _checks(self, box: Box, held: HeldViews) -> tuple[Check, ...]:
        """The copies of what is held, inside the box."""
        transfer = self._transfer
        if not transfer.checks:
            return ()
        return tuple(compile_checks(transfer.name, self._copies, box, held, self._tensors.source, transfer.remedy))

    def _wide_shape(self, box: Box, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of wide tiles, where they are worth it."""
        plain = self._transfer.transform is None and not any(
            self._tensors.source[place.tensor].coded for view in self._transfer.reads for place in view.places
        )
        if not self._budget.wide_bytes or not plain or min(self._runs(shape)) >= self._budget.short_run_bytes:
            return None
        # A little less than fits, as parts of a buffer are aligned.
        wide = self._shape(box, max(1, int(self._budget.wide_bytes * 15 / 16 / max(self._read_bytes, self._write_bytes))))
        return wide if min(self._runs(wide)) >= 2 * min(self._runs(shape)) else None

    def _runs(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Bytes of a run of the source and of the target in a tile of this shape."""
        read = run_in_tile(self._transfer.reads, shape) * self._read_bytes
        return read, run_in_tile(self._transfer.writes, shape) * self._write_bytes

    def _wide_steps(self, tile: Box) -> list[Step]:
        """The steps of a wide tile; none if it does not fit its buffer."""
        read, write = self._runs(tile.shape)
        steps = self._gathering(tile) if read >= write else self._scattering(tile)
        side: Side = "output" if read >= write else "input"
        return [replace(step, held=Held(side, number == 0, number == len(steps) - 1)) for number, step in enumerate(steps)]

    def _gathering(self, tile: Box) -> list[Step]:
        """Reads and copies pieces of the tile into one output buffer; the last step writes it."""
        wanted = list(self._writes.meeting(tile))
        groups = list(lay_groups(wanted, self._tensors.target))
        output = groups[-1].stop() if groups else 0
        if not groups or output > self._budget.wide_bytes:
            return []
        box = bounding_box(wanted)

        def compile_piece(piece: Box) -> Step | None:
            views = list(self._reads.meeting(piece))
            reading = lay_reads(views, self._tensors.source)
            held = HeldViews(views, reading)
            copies = tuple(copy for group in groups for copy in group.copies(held))
            return Step(reading.reads, copies, (), reading.size_bytes, output, checks=self._checks(piece, held)) if views else None

        volume = max(1, int(self._budget.step_bytes / 2 / self._read_bytes))
        order = _memory_order(self._transfer.reads)
        shape = tile_shape(box.shape, order, volume, self._transfer.reads, ())
        steps = self._pieces(box, order, shape, compile_piece, lambda step: step.input_bytes)
        writes = tuple(write for group in groups for write in group.writes())
        return [*steps[:-1], replace(steps[-1], writes=writes)]

    def _scattering(self, tile: Box) -> list[Step]:
        """The first step reads the tile into one input buffer; pieces of it are copied and written."""
        wanted = list(self._writes.meeting(tile))
        box = bounding_box(wanted) if wanted else tile
        views = list(self._reads.meeting(box))
        reading = lay_reads(views, self._tensors.source)
        if not wanted or reading.size_bytes > self._budget.wide_bytes:
            return []
        held = HeldViews(views, reading)

        def compile_piece(piece: Box) -> Step | None:
            views = list(self._writes.meeting(piece))
            copies, writes, output = lay_writes(views, held, self._tensors.target)
            return Step((), copies, writes, reading.size_bytes, output) if views else None

        volume = max(1, int(self._budget.step_bytes / 2 / self._write_bytes))
        shape = tile_shape(box.shape, self._transfer.order, volume, (), self._transfer.writes)
        steps = self._pieces(box, self._transfer.order, shape, compile_piece, lambda step: step.output_bytes)
        return [replace(steps[0], reads=reading.reads, checks=self._checks(box, held)), *steps[1:]]

    def _pieces(
        self,
        box: Box,
        order: tuple[int, ...],
        shape: tuple[int, ...],
        compile_piece: Callable[[Box], Step | None],
        size_of_step: Callable[[Step], int],
    ) -> list[Step]:
        most = self._budget.step_bytes
        return [step for piece in box.cut(order, shape) for step in _fitting(piece, order, compile_piece, size_of_step, most)]


def _fitting(
    box: Box, order: tuple[int, ...], make: Callable[[Box], Made | None], size: Callable[[Made], int], most: int
) -> Iterator[Made]:
    """What `make` makes of the box, or of its halves where that is larger than `most`; a single element is never cut."""
    made = make(box)
    if made is None:
        return
    halves = box.halve(order) if size(made) > most else None
    if halves is None:
        yield made
        return
    for half in halves:
        yield from _fitting(half, order, make, size, most)


def _memory_order(views: Sequence[View]) -> tuple[int, ...]:
    """The axes as the largest view has them in memory, the outermost first."""
    largest = max(views, key=lambda view: view.volume)
    return tuple(sorted(range(len(largest.strides)), key=lambda axis: -largest.strides[axis]))
