"""A tile of a weight made the pieces of its encoding, in the output buffer, a few blocks at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convsvc.encodings.known import ENCODINGS
from convsvc.encodings.numbers import widen
from convsvc.errors import SourceError
from convsvc.execute.kernels.copying import UNSIGNED
from convsvc.execute.steps.records import Encode
from convsvc.tensors.dtypes import size_of

Bytes = npt.NDArray[np.uint8]
# So many elements at once, in whole blocks.
ELEMENTS = 1 << 18


def quantise(encode: Encode, buffer: Bytes) -> None:
    """Encodes the dense tile at the buffer's beginning; its pieces lie behind it, each row by row.

    Raises SourceError for numbers that no scale makes finite.
    """
    writer = ENCODINGS.writing(encode.form.kind)
    itemsize = size_of(encode.dtype)
    dense = buffer[: itemsize * encode.rows * encode.columns].view(UNSIGNED[itemsize]).reshape(encode.rows, encode.columns)
    unit = max(grid.rows for grid in encode.form.grids)
    rows, done = max(1, ELEMENTS // encode.columns // unit) * unit, list(encode.starts)
    for first in range(0, encode.rows, rows):
        values = np.ascontiguousarray(widen(np.ascontiguousarray(dense[first : first + rows]), encode.dtype))
        if not np.isfinite(values).all():
            raise SourceError(
                f"{encode.name} has values that are infinite or no numbers: it cannot be quantised",
                do="find out where they come from; or leave target.quantization out",
            )
        for number, piece in enumerate(writer.encode(encode.form, values)):
            if encode.starts[number] >= 0 and (encode.form.grids[number].rows or not first):
                data = np.ascontiguousarray(piece).reshape(-1)
                buffer[done[number] : done[number] + data.size] = data
                done[number] += data.size
