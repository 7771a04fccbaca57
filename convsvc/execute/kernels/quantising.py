"""A tile of a weight made the pieces of its encoding, in the output buffer, a few blocks at a time.

With the pieces that the weight was published with, codes are those that give its values again; where none does, as it was trained since,
a block gets a new scale by the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import cast

import numpy as np
import numpy.typing as npt

from convsvc.encodings.base import Form, Grid, Likening, NoRule, Piece, Rect, Region, grid_row, region
from convsvc.encodings.known import ENCODINGS
from convsvc.encodings.numbers import Floats, round_to_bf16, widen
from convsvc.errors import SourceError
from convsvc.execute.kernels.copying import UNSIGNED
from convsvc.execute.kernels.transforms import cast as cast_bits
from convsvc.execute.steps.records import Encode, Measure
from convsvc.tensors.dtypes import size_of

Bytes = npt.NDArray[np.uint8]
# So many elements at once, in whole blocks.
ELEMENTS = 1 << 18


def largest_of(measure: Measure, buffer: Bytes) -> float:
    """The largest finite magnitude of a tile: what is not finite is met when it is encoded."""
    itemsize = size_of(measure.dtype)
    bits = buffer[: itemsize * measure.count].view(UNSIGNED[itemsize])
    largest = 0.0
    for first in range(0, measure.count, ELEMENTS):
        values = np.abs(widen(bits[first : first + ELEMENTS], measure.dtype))
        largest = max(largest, float(np.max(values, where=np.isfinite(values), initial=0.0)))
    return largest


def quantise(encode: Encode, buffer: Bytes, taken: Bytes, largest: float | None = None) -> int:
    """Encodes the dense tile at the buffer's beginning; its pieces lie behind it, each row by row. `taken` is the input buffer.

    `largest` is the largest magnitude of all that has one scale with it, where it is encoded so.

    Returns how many blocks got another scale than they were published with. Raises SourceError for numbers that no scale makes finite, and
    for values that were published with scales for which there is no rule, and are others now.
    """
    itemsize = size_of(encode.dtype)
    dense = buffer[: itemsize * encode.rows * encode.columns].view(UNSIGNED[itemsize]).reshape(encode.rows, encode.columns)
    unit = lcm(*(grid.rows for grid in encode.form.grids if grid.rows and not (encode.own and grid.is_one)))
    rows, done, changed = max(1, ELEMENTS // max(1, encode.columns) // unit) * unit, list(encode.starts), 0
    own = _own(encode, taken)
    for first in range(0, encode.rows, rows):
        bits = np.ascontiguousarray(dense[first : first + rows])
        values = np.ascontiguousarray(widen(bits, encode.dtype))
        if not encode.own:
            _check_finite(encode, values)
        if encode.own:
            rect = Rect(encode.row + first, len(values), 1, encode.column, encode.columns, 0)
            made, count = _like(_Like(encode, rect, own, bits, values))
            changed += count
        else:
            writer = ENCODINGS.writing(encode.form.kind)
            made = writer.encode(encode.form, values) if largest is None else writer.encode(encode.form, values, largest)
        for number, piece in enumerate(made):
            if encode.starts[number] >= 0 and (_is_shared(encode, number) <= (not first)):
                data = np.ascontiguousarray(piece).reshape(-1)
                buffer[done[number] : done[number] + data.size] = data
                done[number] += data.size
    return changed


def _check_finite(encode: Encode, values: Floats) -> None:
    if not np.isfinite(values).all():
        raise SourceError(
            f"{encode.name} has values that are infinite or no numbers: it cannot be quantised",
            do="find out where they come from; or leave target.quantization out",
        )


def _is_shared(encode: Encode, number: int) -> bool:
    """Whether all rows of the tile share the piece, which is written once."""
    grid = encode.form.grids[number]
    return not grid.rows or bool(encode.own and grid.is_one)


def _own(encode: Encode, taken: Bytes) -> tuple[Piece, ...]:
    pieces = []
    for grid, lies in zip(encode.form.grids[1:], encode.own, strict=False):
        width = lies.region.columns * grid.item_bytes
        data = taken[lies.start : lies.start + lies.region.rows * width].reshape(lies.region.rows, width)
        pieces.append(Piece(grid, encode.form, lies.region, data))
    return tuple(pieces)


@dataclass(frozen=True, slots=True)
class _Like:
    """Some rows of a tile with the pieces (behind the codes) that they were published with; `bits` are the values as they lie."""

    encode: Encode
    rect: Rect
    own: tuple[Piece, ...]
    bits: npt.NDArray[np.generic]
    values: Floats

    @property
    def form(self) -> Form:
        return self.encode.form

    @property
    def encoding(self) -> Likening:
        return cast("Likening", ENCODINGS[self.form.kind])


def _like(like: _Like) -> tuple[tuple[Bytes, ...], int]:
    """The rows' pieces, and how many blocks got another scale."""
    with np.errstate(invalid="ignore"):  # a release may have NaNs
        codes = like.encoding.recode(like.form, like.rect, (like.own[0], *like.own), like.values)
    kept = tuple([cut_piece(piece, like.rect) for piece in like.own])
    other = _differing(like, codes)
    if other is None:
        return (codes, *kept), 0
    _check_finite(like.encode, like.values)
    grid = like.form.grids[1]
    try:
        if grid.is_one:
            raise NoRule(f"it has one for the {like.form.shared_by}")
        scales, chosen = like.encoding.rescale(like.form, like.rect, (like.own[0], *like.own), like.values)
    except NoRule as rule:
        raise _ruleless(like, str(rule)) from None
    blocks = _by_blocks(other, grid)
    mixed = np.where(np.repeat(blocks, grid.item_bytes, axis=1), scales.reshape(len(blocks), -1), kept[0])
    first = Region(grid_row(grid, like.form, like.rect.row), len(mixed), 1, like.rect.column // grid.columns, blocks.shape[1])
    pieces = (Piece(grid, like.form, first, np.ascontiguousarray(mixed)), *like.own[1:])
    anew = like.encoding.recode(like.form, like.rect, (pieces[0], *pieces), like.values)
    size = like.form.grids[0].columns
    if chosen is not None and grid.columns % size == 0:
        wide = np.repeat(np.repeat(blocks, grid.rows, axis=0)[: len(other)], grid.columns, axis=1)[:, : like.rect.columns]
        anew = np.where(np.repeat(wide[:, ::size], like.form.grids[0].item_bytes, axis=1), chosen, anew)
    return (anew, mixed, *kept[1:]), int(blocks.sum())


def cut_piece(piece: Piece, rect: Rect) -> Bytes:
    """Of a piece the items of a rectangle in whole blocks; all of one that is shared by all."""
    grid, form = piece.grid, piece.form
    if not grid.rows:
        return piece.data
    first, last = grid_row(grid, form, rect.row) - piece.region.row, grid_row(grid, form, rect.last) - piece.region.row
    return piece.data[first : last + 1, piece.columns(rect)]


def _differing(like: _Like, codes: Bytes) -> npt.NDArray[np.bool_] | None:
    """Which of the values the codes do not give, to the bit; None where they give all.

    Published values count as BF16, and as F32 where a job wanted more: either may be what was trained on, in the dtype that lies here.
    """
    form, rect, dtype = like.form, like.rect, like.encode.dtype
    lies = Piece(form.grids[0], form, region(form, 0, rect)._replace(row_step=1), codes)
    product = np.empty(like.bits.shape, np.uint32)
    like.encoding.decode(form, rect, (lies, *like.own), product, "F32")
    exact = product.view(np.float32)
    rounded = round_to_bf16(exact)
    other = cast_bits(rounded, "BF16", dtype) != like.bits
    if not other.any():
        return None
    blocks = _by_blocks(other, form.grids[1]) if form.grids[1].rows else other
    unrounded = cast_bits(product, "F32", dtype) != like.bits
    if form.grids[1].rows:
        both = blocks & _by_blocks(unrounded, form.grids[1])
        other &= _over(both, form.grids[1], other.shape)
    elif not unrounded.any():
        return None
    return other if other.any() else None


def _by_blocks(mask: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.bool_]:
    """Whether any of a block is meant, for each block."""
    rows, columns = (np.arange(0, size, by) for size, by in zip(mask.shape, (grid.rows, grid.columns), strict=True))
    found: npt.NDArray[np.bool_] = np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, axis=0), columns, axis=1)
    return found


def _over(blocks: npt.NDArray[np.bool_], grid: Grid, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    wide = np.repeat(np.repeat(blocks, min(grid.rows, shape[0]), axis=0)[: shape[0]], grid.columns, axis=1)
    return wide[:, : shape[1]]


def _ruleless(like: _Like, what: str) -> SourceError:
    return SourceError(
        f"{like.encode.name} has other values than it was published with, and no rule gives new scales: {what}",
        do="set another target.quantization, for new scales everywhere; or none",
    )
