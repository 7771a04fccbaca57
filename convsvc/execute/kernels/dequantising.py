"""Quantised weights made BF16 or F32 in the input buffer, by their encodings, a few rows at a time.

What an encoding decodes lies in whole groups of columns; what of it is not wanted is left out here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convsvc.encodings.base import Piece, Rect, Unfit, widened
from convsvc.encodings.known import ENCODINGS
from convsvc.encodings.numbers import INFINITY
from convsvc.errors import SourceError
from convsvc.execute.kernels.copying import UNSIGNED, Bits
from convsvc.execute.steps.decoding import Decoding, Lies
from convsvc.tensors.dtypes import size_of

Bytes = npt.NDArray[np.uint8]
# So many elements at once: fewer cost more calls (float8 blocks 0.9 GB/s with 2^15, 1.5 with 2^18), and a few MB are all that they take.
ELEMENTS = 1 << 18


def dequantise(decoding: Decoding, buffer: Bytes) -> tuple[int, set[int]]:
    """Does the decoding in the buffer. Returns how many finite products have become infinite, and which pieces have scales that are none.

    Raises SourceError where a weight's pieces contradict each other.
    """
    held: dict[tuple[int, Lies], Piece] = {}
    try:
        pairs = zip(decoding.rects, decoding.pieces, strict=True)
        overflows = sum([_decode(decoding, rect, pieces, buffer, held) for rect, pieces in pairs])
        return overflows, {number for (number, _), piece in held.items() if number and not is_finite(piece)}
    except Unfit as fault:
        raise SourceError(
            f"{decoding.name} cannot be decoded: {fault}", do="fetch the checkpoint again, or give the one it was made from"
        ) from None


def _decode(decoding: Decoding, rect: Rect, lies: tuple[Lies, ...], buffer: Bytes, held: dict[tuple[int, Lies], Piece]) -> int:
    form, dtype, wide = decoding.form, decoding.dtype, widened(rect, decoding.form)
    itemsize = size_of(dtype)
    start = decoding.start + itemsize * rect.at
    out = buffer[start : start + itemsize * rect.rows * rect.columns].view(UNSIGNED[itemsize]).reshape(rect.rows, rect.columns)
    pieces = tuple([_piece(decoding, number, each, buffer, held) for number, each in enumerate(lies)])
    decode, rows, overflows = ENCODINGS[form.kind].decode, max(1, ELEMENTS // wide.columns), 0
    for first in range(0, rect.rows, rows):
        part = wide._replace(row=wide.row + first * wide.row_step, rows=min(rows, rect.rows - first))
        target = out[first : first + part.rows]
        if wide.columns == rect.columns:
            overflows += decode(form, part, pieces, target, dtype)
        else:
            made: Bits = np.empty((part.rows, wide.columns), out.dtype)
            overflows += decode(form, part, pieces, made, dtype)
            target[...] = made[:, rect.column - wide.column :][:, : rect.columns]
    return overflows


def is_finite(piece: Piece) -> bool:
    """Whether a piece's items are finite numbers; whole ones, as zero points, are."""
    dtype, data = piece.grid.dtype, piece.data
    if dtype in ("U8", "F8_E8M0"):
        return not (data == 255).any()
    if dtype == "F8_E4M3":
        return not ((data & 127) == 127).any()
    if dtype not in INFINITY:
        return True
    numbers = piece.numbers
    infinity = numbers.dtype.type(INFINITY[dtype])
    return not ((numbers & infinity) == infinity).any()


def _piece(decoding: Decoding, number: int, lies: Lies, buffer: Bytes, held: dict[tuple[int, Lies], Piece]) -> Piece:
    """The piece in memory; what several rectangles share is the same one, which decodes its factors once."""
    found = held.get((number, lies))
    if found is None:
        grid, region = decoding.form.grids[number], lies.region
        width = region.columns * grid.item_bytes
        data = buffer[lies.start : lies.start + region.rows * width].reshape(region.rows, width)
        found = held[number, lies] = Piece(grid, decoding.form, region, data)
    return found
