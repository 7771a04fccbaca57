"""What an encoding is: how the bytes of several stored tensors together are the values of one weight. Pure.

A weight that is encoded has *codes* and, beside them, factors, zero points and whatever else its values need: its *pieces*, the codes
first. Each piece is a grid of items, and each item stands for a rectangle of the weight's elements: a byte for one, a factor for
128 x 128. So which bytes a part of the weight needs follows from numbers alone, and whoever reads does not know what they mean.

A module of this folder is an encoding if it has what `Encoding` says; its name is the encoding's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from convsvc.encodings.numbers import Floats, decode_scales
from convsvc.tensors.dtypes import size_of

Bytes = npt.NDArray[np.uint8]
Bits = npt.NDArray[Any]


class Grid(NamedTuple):
    """A piece as items of `item_bytes`: an item for each `rows` x `columns` elements of the weight.

    `height` x `width` items belong to each matrix of the weight. With `rows` 0 all of it belongs to all elements.
    """

    dtype: str
    rows: int
    columns: int
    height: int
    width: int
    item_bytes: int

    @property
    def row_bytes(self) -> int:
        return self.width * self.item_bytes

    @property
    def is_one(self) -> bool:
        """Whether all elements of a matrix share its only item."""
        return bool(self.rows) and (self.height, self.width) == (1, 1)


@dataclass(frozen=True, slots=True)
class Form:
    """How a weight of `shape` is encoded: by which encoding, in which pieces. Of a model's weights many have one form.

    `shape` is as the values lie, the last axis running on; a `turned` weight has its last two axes the other way round for everybody
    else. Parts of it are decoded in whole `group`s of columns. `loose`: so many of the last columns may be padding, which only the
    model's sizes tell. `bits` are those of an element with its share of the other pieces, `shared_by` says in words what has a scale of
    its own, `params` are the encoding's own.
    """

    kind: str
    shape: tuple[int, ...]
    grids: tuple[Grid, ...]
    shared_by: str
    group: int = 1
    turned: bool = False
    loose: int = 0
    params: tuple[tuple[str, int], ...] = ()

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def height(self) -> int:
        """Rows of each matrix."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def bits(self) -> float:
        matrices = prod(self.shape[:-2])
        stored = sum(grid.height * grid.row_bytes * (matrices if grid.rows else 1) for grid in self.grids)
        return 8 * stored / max(1, prod(self.shape))

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """The weight's shape for everybody else."""
        return (*self.shape[:-2], self.shape[-1], self.shape[-2]) if self.turned else self.shape

    def param(self, name: str) -> int:
        return dict(self.params)[name]


class Rect(NamedTuple):
    """`rows` x `columns` elements of a weight, of which `row_step` is the distance of rows; they lie at `at` of a buffer part, in a run.

    Rows are counted through all matrices of the weight.
    """

    row: int
    rows: int
    row_step: int
    column: int
    columns: int
    at: int

    @property
    def last(self) -> int:
        return self.row + (self.rows - 1) * self.row_step


class Region(NamedTuple):
    """Items of a piece: `rows` rows from `row` on, `row_step` apart, and of each `columns` from `column` on."""

    row: int
    rows: int
    row_step: int
    column: int
    columns: int

    @property
    def stop(self) -> int:
        return self.row + self.rows


def rectangles(start: int, count: int, at: int, times: int, step: int, columns: int) -> Iterator[Rect]:
    """`times` runs of `count` elements from `start` on, `step` apart, as rectangles of a matrix with so many columns.

    >>> [rect[:5] for rect in rectangles(7, 20, 0, 1, 0, columns=5)]
    [(1, 1, 1, 2, 3), (2, 3, 1, 0, 5), (5, 1, 1, 0, 2)]
    >>> [rect[:5] for rect in rectangles(7, 2, 0, 3, 10, columns=5)]
    [(1, 3, 2, 2, 2)]
    """
    row, column = divmod(start, columns)
    if times > 1 and step % columns == 0 and step > 0 and column + count <= columns:
        yield Rect(row, times, step // columns, column, count, at)
        return
    for n in range(times):
        yield from _run(start + n * step, count, at + n * count, columns)


def _run(start: int, count: int, at: int, columns: int) -> Iterator[Rect]:
    while count:
        row, column = divmod(start, columns)
        if column or count < columns:
            rows, length = 1, min(columns - column, count)
        else:
            rows, length = count // columns, columns
        yield Rect(row, rows, 1, column, length, at)
        start, count, at = start + rows * length, count - rows * length, at + rows * length


def widened(rect: Rect, form: Form) -> Rect:
    """The rectangle in whole groups of columns: what must be decoded for it."""
    group = form.group
    first, stop = rect.column // group * group, min(-(-(rect.column + rect.columns) // group) * group, form.columns)
    return rect._replace(column=first, columns=stop - first)


def grid_row(grid: Grid, form: Form, row: int) -> int:
    """Which row of a piece's items a row of the weight belongs to."""
    matrix, within = divmod(row, form.height)
    return matrix * grid.height + within // grid.rows


def region(form: Form, number: int, rect: Rect) -> Region:
    """The items of piece `number` that a (widened) rectangle needs. Of anything but codes whole rows, where that is not twice as much."""
    grid = form.grids[number]
    if not grid.rows:
        return Region(0, grid.height, 1, 0, grid.width)
    first, last = grid_row(grid, form, rect.row), grid_row(grid, form, rect.last)
    column, stop = rect.column // grid.columns, -(-(rect.column + rect.columns) // grid.columns)
    spaced = number == 0 and grid.rows == 1 and rect.row_step > 1
    if number and 2 * (stop - column) >= grid.width:
        column, stop = 0, grid.width
    return Region(first, rect.rows if spaced else last - first + 1, rect.row_step if spaced else 1, column, stop - column)


@dataclass(frozen=True)
class Piece:
    """A region of a piece in memory: its items' bytes, [rows, columns x item_bytes]."""

    grid: Grid
    form: Form
    region: Region
    data: Bytes

    def row_numbers(self, rect: Rect) -> npt.NDArray[np.intp]:
        """For each row of the rectangle the row of `data` that belongs to it."""
        rows = rect.row + np.arange(rect.rows) * rect.row_step
        matrix, within = np.divmod(rows, self.form.height)
        numbers: npt.NDArray[np.intp] = (matrix * self.grid.height + within // self.grid.rows - self.region.row) // self.region.row_step
        return numbers

    def rows(self, rect: Rect) -> Bytes:
        """The rectangle's items where each stands for one row: [rows, columns x item_bytes], without a copy."""
        first = (grid_row(self.grid, self.form, rect.row) - self.region.row) // self.region.row_step
        step = rect.row_step if self.region.row_step == 1 else 1
        return self.data[first : first + (rect.rows - 1) * step + 1 : step, self.columns(rect)]

    def columns(self, rect: Rect) -> slice:
        """Of a row of `data` the bytes of the rectangle's columns."""
        size, first = self.grid.item_bytes, rect.column // self.grid.columns - self.region.column
        stop = -(-(rect.column + rect.columns) // self.grid.columns) - self.region.column
        return slice(first * size, stop * size)

    @cached_property
    def factors(self) -> Floats:
        """All of its items as numbers, [rows, columns]; those of U8 are exponents."""
        return decode_scales(self.data.reshape(-1), self.grid.dtype).reshape(self.data.shape[0], -1)

    @cached_property
    def tables(self) -> dict[int, Any]:
        """What an encoding has made of its rows, for further rectangles."""
        return {}

    @cached_property
    def numbers(self) -> npt.NDArray[Any]:
        """All of its items as unsigned integers of their size: [rows, columns]."""
        return np.ascontiguousarray(self.data).view(f"<u{self.grid.item_bytes}")


class Part(NamedTuple):
    """A stored tensor as its header has it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A weight that an encoding has recognised: its name, the names of its pieces (the codes' first), and their form."""

    name: str
    pieces: tuple[str, ...]
    form: Form


class Look(Protocol):
    """What an encoding sees of a checkpoint: the tensors by name, beside the one that gave the sign, and what the configuration says."""

    def part(self, name: str) -> Part | None:
        """The tensor of this name in the same place; None where there is none."""

    def said(self, name: str) -> tuple[Any, ...]:
        """Every value that `quantization_config` has under this name, at whatever depth, without repetition."""


class Unfit(Exception):
    """Pieces that cannot belong together: of the wrong shape or type. Says which, what was expected, what was found."""


class Incomplete(Exception):
    """A piece without the others. Says which, and which one is not there."""


class Missaid(Exception):
    """A word of the configuration that cannot be meant. Says which, and what it must be."""


class NoRule(Exception):
    """New scales were needed, and there is no rule for them. Says for what."""


class Unread(Exception):
    """A way of quantising, or a variant of one, that is not read. Says which, in words that follow "is quantised: "."""


class Encoding(Protocol):
    """What every encoding's module offers.

    `SIGNS` are endings of names: a tensor of such a name may belong to a weight of this encoding, and `claim` is asked once for each.
    There are none where a dialect tells, whose names say it.
    `CODES` are the dtypes of codes that mean nothing without their scales. `TITLE` follows "dequantised: ".
    """

    SIGNS: tuple[str, ...]
    TITLE: str

    def claim(self, stem: str, sign: str, look: Look) -> Claim | None:
        """The weight that `stem + sign` belongs to; None where it is none of this encoding's. Raises Unfit, Incomplete, Unread."""

    def decode(self, form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
        """Makes the rectangle's values, as bits of `dtype` (BF16 or F32), in `out` [rows, columns].

        `rect` is in whole groups. Returns how many finite products have become infinite. Raises Unfit where a piece contradicts another.
        """


class Likening(Encoding, Protocol):
    """What an encoding's module offers beside that, if its weights come back with the scales that they were published with."""

    def recode(self, form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> Bytes:
        """The codes nearest to the rectangle's finite values, [rows, bytes], with the scales of `pieces`; its first one is not looked at.

        The sign of zero is kept. `rect` is in whole groups.
        """

    def rescale(self, form: Form, rect: Rect, pieces: tuple[Piece, ...], values: Floats) -> tuple[Bytes, Bytes | None]:
        """New scales by the rule (piece 1 of the rectangle) where values are others than were published, and, where the rule does not take
        the nearest, their codes. `rect` is in whole blocks. Raises NoRule."""


@dataclass(frozen=True, slots=True)
class Written:
    """How an encoding writes a weight: the form, and for each piece its name, dtype and shape."""

    form: Form
    names: tuple[str, ...]
    parts: tuple[Part, ...]


class Writer(Encoding, Protocol):
    """What an encoding's module offers beside that, if it writes, too.

    `WRITTEN_AS` is what a job calls it, `EXPERTS_ONLY` says that publishers leave the rest of a model of experts as it is. Whole blocks of
    `TILE` rows x columns are encoded by themselves.
    """

    WRITTEN_AS: str
    EXPERTS_ONLY: bool
    TILE: tuple[int, int]

    def written(self, name: str, shape: tuple[int, ...]) -> Written | None:
        """How the weight is written; None for one that this encoding has no place for."""

    def encode(self, form: Form, values: Floats, largest: float = 0.0) -> tuple[Bytes, ...]:
        """The pieces of a part of the weight, each [rows, bytes]: values in whole tiles, but for the weight's last rows and columns.

        `largest`: of a form with a piece for the whole weight (`Grid.rows` 0) the largest magnitude of all that has the same one.
        """

    def words(self, kept: Sequence[str]) -> Mapping[str, Any]:
        """`quantization_config`, as vLLM and SGLang read it; `kept` are the modules whose weights are not encoded."""


def codes_grid(dtype: str, height: int, width: int, columns: int = 1, item_bytes: int | None = None) -> Grid:
    """Codes that lie as the values do: an item for `columns` of them."""
    return Grid(dtype, 1, columns, height, width, size_of(dtype) if item_bytes is None else item_bytes)


def whole(dtype: str, count: int) -> Grid:
    """A piece that belongs to all of the weight: a global scale, the groups of columns."""
    return Grid(dtype, 0, 0, 1, count, size_of(dtype))


def fits(shape: tuple[int, ...], rows: int, columns: int, grid: tuple[int, ...]) -> bool:
    """Whether a grid of this shape has an item for each rows x columns elements of a weight."""
    expected = (*shape[:-2], -(-shape[-2] // rows), -(-shape[-1] // columns))
    return grid == expected


def values_under(config: Any, name: str) -> Iterator[Any]:
    """Every value that a configuration has under this name, the outermost first."""
    if isinstance(config, Mapping):
        if config.get(name) is not None:
            yield config[name]
        for each in config.values():
            yield from values_under(each, name)
    elif isinstance(config, list | tuple):
        for each in config:
            yield from values_under(each, name)
