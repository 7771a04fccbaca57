"""Compiles what is written encoded: tiles of a stored tensor that are whole blocks of its encoding. Pure.

A block is a rectangle of the stored tensor's rows and columns, whatever its logical axes are. So a transfer is seen in the coordinates of
each stored tensor that it fills, where what is read is again a few boxes; a tile is copied together, encoded, written piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import lcm, prod
from operator import mul, sub

from convsvc.encodings.base import Form, Grid, Rect, grid_row, region
from convsvc.errors import PlanError
from convsvc.execute.steps.alignment import agreeing
from convsvc.execute.steps.budgets import Budget, buffer_bytes
from convsvc.execute.steps.checks import compile_checks
from convsvc.execute.steps.decoding import Lies, wanted
from convsvc.execute.steps.held import HeldViews
from convsvc.execute.steps.inputs import ALIGNMENT, BufferSpot, Read, lay_reads
from convsvc.execute.steps.matching import ViewIndex
from convsvc.execute.steps.outputs import copies_to
from convsvc.execute.steps.records import Encode, Measure, Step, Tensors, Write, WritePlace
from convsvc.execute.steps.shaping import tile_shape
from convsvc.plan.records import Coded, Place, PlannedTensor, Transfer, View, scaled_with
from convsvc.tensors.boxes import Box
from convsvc.tensors.dtypes import size_of

# (length, distance in the stored tensor, distance in what is read) of an axis.
Axis = tuple[int, int, int]


def split_encoded(transfer: Transfer, tensors: Tensors) -> tuple[Transfer, list[Transfer]]:
    """The transfer without what is written encoded, and for each stored tensor of that kind a transfer in its own rows and columns.

    Raises PlanError for what cannot be seen so.
    """
    encoded: dict[int, list[View]] = {}
    plain: list[View] = []
    for view in transfer.writes:
        kept = tuple([place for place in view.places if tensors.target[place.tensor].coded is None])
        for place in view.places:
            if tensors.target[place.tensor].coded is not None:
                encoded.setdefault(place.tensor, []).append(view._replace(places=(place,)))
        if kept:
            plain.append(view._replace(places=kept))
    if not encoded:
        return transfer, []
    return replace(transfer, writes=tuple(plain)), [_stored(transfer, number, views, tensors) for number, views in encoded.items()]


def _stored(transfer: Transfer, number: int, wanted: Sequence[View], tensors: Tensors) -> Transfer:
    target = tensors.target[number]
    assert target.coded is not None, "only what is encoded is seen so"
    shape = target.coded.form.shape
    rows, columns = prod(shape[:-1]), shape[-1]
    reads, checks = ViewIndex(transfer.reads), ViewIndex(transfer.checks)
    seen = [
        tuple(each for view in wanted for part in index.meeting(view.box) for each in in_stored(part, view, columns))
        for index in (reads, checks)
    ]
    write = View((0, 0), (rows, columns), (columns, 1), (Place(number, 0),))
    return Transfer(target.name, (rows, columns), (0, 1), seen[0], (write,), checks=seen[1], remedy=transfer.remedy)


def in_stored(part: View, wanted: View, columns: int) -> Iterator[View]:
    """What is read of a part of a wanted view, as boxes of the rows and columns of the stored tensor that wants it.

    >>> held, there = View((0, 0), (4, 6), (1, 4), (Place(7, 0),)), View((0, 0), (4, 6), (6, 1), (Place(0, 12),))
    >>> list(in_stored(held, there, columns=6))
    [View(starts=(2, 0), stops=(6, 6), strides=(1, 4), places=(Place(tensor=7, offset=0),))]
    """
    first = wanted.places[0].offset + sum(map(mul, map(sub, part.starts, wanted.starts), wanted.strides))
    row, column = divmod(first, columns)
    lengths = tuple(map(sub, part.stops, part.starts))
    axes = [each for each in zip(lengths, wanted.strides, part.strides, strict=True) if each[0] > 1]
    across = [each for each in axes if each[1] % columns]
    down = [(length, there // columns, here) for length, there, here in axes if there % columns == 0]
    if column + sum((length - 1) * there for length, there, _ in across) >= columns:
        raise PlanError("a logical axis runs over rows and columns of a tensor that is to be quantised", do="leave target.quantization out")
    (rows, row_stride), row_starts = _innermost(down)
    (width, column_stride), column_starts = _innermost(across)
    for (below, skipped), (right, passed) in product(row_starts, column_starts):
        starts = row + below, column + right
        places = tuple([Place(tensor, offset + skipped + passed) for tensor, offset in part.places])
        yield View(starts, (starts[0] + rows, starts[1] + width), (row_stride, column_stride), places)


def _innermost(axes: Sequence[Axis]) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """(length, distance in what is read) of the run of neighbours; and where such runs begin, in the stored tensor and in what is read."""
    merged: list[Axis] = []
    for length, there, here in sorted(axes, key=lambda axis: -axis[1]):
        if merged and merged[-1][1:] == (length * there, length * here):
            merged[-1] = (merged[-1][0] * length, there, here)
        else:
            merged.append((length, there, here))
    run = (1, 1)
    if merged and merged[-1][1] == 1:
        length, _, here = merged.pop()
        run = length, here
    steps = [[(n * there, n * here) for n in range(length)] for length, there, here in merged]
    return run, [(sum(each[0] for each in at), sum(each[1] for each in at)) for at in product(*steps)]


def compile_encoded(transfers: Sequence[Transfer], tensors: Tensors, budget: Budget) -> Iterator[Step]:
    """The steps of transfers in the coordinates of their only, encoded, stored tensors; each within the budget, or of one block.

    Where several have one new scale, all of them are read once before, for their largest number.
    """
    groups: dict[str, list[Transfer]] = {}
    for number, transfer in enumerate(transfers):
        name = scaled_with(tensors.target[_written_tensor(transfer)])
        groups.setdefault(f"alone {number}" if name is None else f"with {name}", []).append(transfer)
    for name, members in groups.items():
        if name.startswith("alone "):
            yield from _Compiler(members[0], tensors, budget).steps()
            continue
        group = min(map(_written_tensor, members))
        for each in members:
            yield from map(_measuring, _Compiler(each, tensors, budget, group).steps())
        for each in members:
            yield from _Compiler(each, tensors, budget, group).steps()


def _written_tensor(transfer: Transfer) -> int:
    return transfer.writes[0].places[0].tensor


def _measuring(step: Step) -> Step:
    """The step without what it compares and writes: its tile is only looked at."""
    measures = tuple([Measure(each.group, each.dtype, each.rows * each.columns) for each in step.encodes])
    return replace(step, writes=(), checks=(), encodes=(), measures=measures)


@dataclass(slots=True)
class _Compiler:
    transfer: Transfer
    tensors: Tensors
    budget: Budget
    group: int = -1

    def steps(self) -> Iterator[Step]:
        reads, checks = ViewIndex(self.transfer.reads), ViewIndex(self.transfer.checks)
        (height, width), matrix = self.transfer.sizes, self._matrix
        rows, columns = self._tile()
        rows = min(rows, matrix)
        starts = (first + row for first in range(0, height, matrix) for row in range(0, min(matrix, height - first), rows))
        for row, column in product(starts, range(0, width, columns)):
            box = Box((row, column), (min(row + rows, row // matrix * matrix + matrix), min(width, column + columns)))
            yield from self._fitting(box, reads, checks)

    @property
    def _coded(self) -> Coded:
        coded = self.tensors.target[self.transfer.writes[0].places[0].tensor].coded
        assert coded is not None, "only what is encoded is compiled so"
        return coded

    @property
    def _unit(self) -> tuple[int, int]:
        """Rows and columns of the smallest tile."""
        grids = [grid for grid in self._coded.form.grids if grid.rows and not (self._coded.own and grid.is_one)]
        return lcm(*(grid.rows for grid in grids)), lcm(*(grid.columns for grid in grids))

    @property
    def _matrix(self) -> int:
        """Rows that a tile does not go beyond: those of a matrix, where its last block may be short; else all."""
        form = self._coded.form
        return max(1, form.height) if any(grid.rows > 1 for grid in form.grids) else max(1, self.transfer.sizes[0])

    def _tile(self) -> tuple[int, int]:
        """As few and as long runs as the budget allows, in whole units."""
        source, coded = self.tensors.source, self._coded
        read = max((buffer_bytes(source[view.places[0].tensor]) for view in self.transfer.reads), default=1)
        volume = int(self.budget.step_bytes / (read + size_of(coded.dtype) + coded.form.bits / 8))
        unit, sizes = self._unit, self.transfer.sizes
        shape = tile_shape(sizes, (0, 1), max(1, volume), self.transfer.reads, self.transfer.writes)
        rows, columns = (size if size == whole else max(by, size // by * by) for size, whole, by in zip(shape, sizes, unit, strict=True))
        return rows, columns

    def _fitting(self, box: Box, reads: ViewIndex, checks: ViewIndex) -> Iterator[Step]:
        step = self._step(box, reads, checks)
        halves = self._halves(box) if step.buffer_bytes > self.budget.step_bytes else None
        if halves is None:
            yield step
            return
        for half in halves:
            yield from self._fitting(half, reads, checks)

    def _halves(self, box: Box) -> tuple[Box, Box] | None:
        """Two halves in whole units, cut through the rows while there is more than one unit of them."""
        for axis, unit in enumerate(self._unit):
            length = box.stops[axis] - box.starts[axis]
            if length > unit:
                middle = box.starts[axis] + max(unit, length // 2 // unit * unit)
                return Box(*box.along(axis, box.starts[axis], middle)), Box(*box.along(axis, middle, box.stops[axis]))
        return None

    def _step(self, box: Box, reads: ViewIndex, checks: ViewIndex) -> Step:
        transfer, source, coded = self.transfer, self.tensors.source, self._coded
        held = list(reads.meeting(box))
        reading = lay_reads(held, source)
        views = HeldViews(held, reading)
        compared = tuple(compile_checks(transfer.name, checks, box, views, source, transfer.remedy)) if transfer.checks else ()
        rows, columns = box.shape
        number = transfer.writes[0].places[0].tensor
        copies = copies_to(View(box.starts, box.stops, (columns, 1), (Place(number, 0),)), BufferSpot(0, (columns, 1), coded.dtype), views)
        own, further, size = lay_own(coded, box, source, reading.size_bytes)
        start, starts, writes = _aligned(rows * columns * size_of(coded.dtype)), [], []
        for grid, piece in zip(coded.form.grids, (number, *coded.pieces), strict=True):
            written = _written(grid, coded.form, box, piece, start)
            starts.append(start if written else -1)
            if written is not None:
                writes.append(written)
                start = _aligned(start + written.total_bytes)
        encode = Encode(transfer.name, coded.form, coded.dtype, rows, columns, tuple(starts), box.starts[0], box.starts[1], own, self.group)
        return Step(
            (*reading.reads, *further),
            tuple(copies),
            tuple(writes),
            size,
            start,
            None,
            reading.decodings,
            checks=compared,
            encodes=(encode,),
        )


def lay_own(coded: Coded, box: Box, source: Sequence[PlannedTensor], start: int) -> tuple[tuple[Lies, ...], list[Read], int]:
    """Where the published pieces of a tile shall lie in the input buffer, from byte `start` on; what is read for them; the byte behind."""
    laid: list[Lies] = []
    reads: list[Read] = []
    rect = tile_rect(coded.form, box)
    for number, place in enumerate(coded.own, 1):
        tensor, grid = source[place.tensor], coded.form.grids[number]
        run = wanted(grid, number, region(coded.form, number, rect))
        file_offset = tensor.file_offset + place.offset * size_of(tensor.dtype) + run.data_offset
        start = agreeing(_aligned(start), file_offset, run.size_bytes, 1)
        reads.append(Read(tensor.file, file_offset, run.size_bytes, start, run.times, run.step_bytes))
        laid.append(Lies(run.region, start))
        start += run.size_bytes * run.times
    return tuple(laid), reads, _aligned(start)


def tile_rect(form: Form, box: Box) -> Rect:
    """A tile as a rectangle of a weight's elements."""
    rows, columns = box.shape
    return Rect(box.starts[0], rows, 1, box.starts[1], columns, 0)


def _written(grid: Grid, form: Form, box: Box, piece: int, start: int) -> Write | None:
    """What is written of a piece for a tile; of one that belongs to the whole weight, or to a matrix, all, with its first tile."""
    if not grid.rows:
        return Write(start, grid.height * grid.row_bytes, False, (WritePlace(piece, 0),)) if box.starts == (0, 0) else None
    row = grid_row(grid, form, box.starts[0])
    if grid.is_one and (box.starts[0] % form.height or box.starts[1]):
        return None
    rows = grid_row(grid, form, box.stops[0] - 1) + 1 - row
    column, stop = box.starts[1] // grid.columns, -(-box.stops[1] // grid.columns)
    size, at = (stop - column) * grid.item_bytes, row * grid.row_bytes + column * grid.item_bytes
    if size == grid.row_bytes:
        return Write(start, rows * size, False, (WritePlace(piece, at),))
    return Write(start, size, False, (WritePlace(piece, at),), rows, grid.row_bytes)


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
