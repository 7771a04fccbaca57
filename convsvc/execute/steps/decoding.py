"""Where the pieces of quantised weights lie in the input buffer, and where their values shall. Pure; `kernels.dequantising` does it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from convsvc.encodings.base import Form, Grid, Rect, Region, rectangles, region, widened
from convsvc.execute.steps.regions import Range

# Rows of factors that lie this near to each other are read in one go.
NEAR_BYTES = 16 << 10


class Lies(NamedTuple):
    """A region of a piece, and the byte of the input buffer from which its items lie, row by row."""

    region: Region
    start: int


@dataclass(frozen=True, slots=True)
class Decoding:
    """Rectangles of the source's tensor number `tensor`, `name`, to be made values of `dtype` at byte `start` of the buffer and their `at`.

    `pieces[i][k]` says where what the i-th rectangle needs of the k-th piece lies.
    """

    tensor: int
    name: str
    form: Form
    dtype: str
    start: int
    rects: tuple[Rect, ...]
    pieces: tuple[tuple[Lies, ...], ...]


class Wanted(NamedTuple):
    """Rows of a piece that are read: so many bytes from `data_offset` of it on, `times` such runs."""

    piece: int
    region: Region
    data_offset: int
    size_bytes: int
    times: int
    step_bytes: int


def cut_rectangles(ranges: Sequence[Range], columns: int) -> tuple[Rect, ...]:
    """The ranges of a stored tensor as rectangles of its rows and columns."""
    return tuple([rect for each in ranges for rect in rectangles(each.start, each.count, each.at, each.times, each.step, columns)])


def needed(form: Form, rects: Sequence[Rect]) -> list[list[Region]]:
    """For each piece the regions that are read: codes for each rectangle its own, factors joined where they are near."""
    wide = [widened(rect, form) for rect in rects]
    return [[region(form, 0, rect) for rect in wide], *(_joined(form, number, wide) for number in range(1, len(form.grids)))]


def _joined(form: Form, number: int, rects: Sequence[Rect]) -> list[Region]:
    grid = form.grids[number]
    near = NEAR_BYTES // max(1, grid.row_bytes)
    found: list[Region] = []
    for each in sorted(dict.fromkeys(region(form, number, rect) for rect in rects)):
        last = found[-1] if found else None
        if last is not None and (last.column, last.columns) == (each.column, each.columns) and each.row <= last.stop + near:
            found[-1] = last._replace(rows=max(last.stop, each.stop) - last.row)
        else:
            found.append(each)
    return found


def wanted(grid: Grid, piece: int, of: Region) -> Wanted:
    """What is read of a piece for a region."""
    first = of.row * grid.row_bytes + of.column * grid.item_bytes
    size = of.columns * grid.item_bytes
    if of.row_step == 1 and of.columns == grid.width:
        return Wanted(piece, of, first, of.rows * size, 1, 0)
    return Wanted(piece, of, first, size, of.rows, of.row_step * grid.row_bytes)


def lies(form: Form, rects: Sequence[Rect], read: Sequence[Sequence[Lies]]) -> Iterator[tuple[Lies, ...]]:
    """For each rectangle where its pieces lie; `read` has the regions of each piece, the codes' in the rectangles' order."""
    further = [(number, _by_columns(each)) for number, each in enumerate(read) if number]
    for codes, rect in zip(read[0], rects, strict=True):
        wide = widened(rect, form)
        yield (codes, *(_holding(region(form, number, wide), among) for number, among in further))


def _by_columns(read: Sequence[Lies]) -> dict[tuple[int, int], list[Lies]]:
    found: dict[tuple[int, int], list[Lies]] = {}
    for each in read:
        found.setdefault((each.region.column, each.region.columns), []).append(each)
    return found


def _holding(needs: Region, among: dict[tuple[int, int], list[Lies]]) -> Lies:
    """Which of the regions that were read holds these items: they are in the order of their rows, and do not overlap."""
    there = among[needs.column, needs.columns]
    return there[bisect_right(there, needs.row, key=_first_row) - 1]


def _first_row(each: Lies) -> int:
    return each.region.row
